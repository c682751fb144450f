//! Certificates made for the occasion.

use super::*;
use rcgen::{
    CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose, KeyPair, SanType,
    date_time_ymd,
};

fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "press-7");
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn names_validity_and_thumbprints_are_read() {
    let der = made(|p| {
        p.subject_alt_names = vec![
            SanType::DnsName("press-7.plant".try_into().unwrap()),
            SanType::URI("urn:press:7".try_into().unwrap()),
        ];
    });
    let certificate = Certificate::parse(&der).unwrap();
    assert_eq!(certificate.common_name(), Some("press-7"));
    assert_eq!(
        certificate.alternative_name(),
        None,
        "two names name nobody"
    );
    assert_eq!(&*certificate.alternative_names[1], "urn:press:7");
    assert_eq!(certificate.sha256, fingerprint(&der));
    assert_eq!(certificate.not_before, Unix::from_secs(1_767_225_600));
    assert_eq!(certificate.not_after, Unix::from_secs(1_798_761_600));
    assert!(certificate.for_clients);
}

#[test]
fn thumbprints_are_those_openssl_prints() {
    // openssl x509 -fingerprint of the committed example CA
    let pem = include_bytes!("../../../config/plant-a.pem");
    let pem = Pem::iter_from_buffer(pem).next().unwrap().unwrap();
    let certificate = Certificate::parse(&pem.contents).unwrap();
    let sha1 =
        parse_thumbprint("B3:89:00:27:FA:49:85:CC:33:F6:80:D8:63:F4:BB:5E:7E:5E:41:F9").unwrap();
    let sha256 =
        parse_thumbprint("3BE632239F51C95C2B16CA421152E4A4FE2AA1941C3881DED758B4F084436B38")
            .unwrap();
    assert_eq!(certificate.sha1, *sha1);
    assert_eq!(certificate.sha256, *sha256);
}

#[test]
fn time_and_use_are_checked_to_the_second() {
    let certificate = Certificate::parse(&made(|_| {})).unwrap();
    let at = |s| {
        certificate
            .check(Unix::from_secs(s))
            .map_err(|d| d.reason.word())
    };
    assert_eq!(at(1_767_225_599), Err("x509_not_yet_valid"));
    assert_eq!(at(1_767_225_600), Ok(()));
    assert_eq!(at(1_798_761_600), Ok(()));
    assert_eq!(at(1_798_761_601), Err("x509_expired"));
    let of_use = |usage: Vec<ExtendedKeyUsagePurpose>| {
        let der = made(|p| p.extended_key_usages = usage);
        let certificate = Certificate::parse(&der).unwrap();
        certificate
            .check(Unix::from_secs(1_770_000_000))
            .map_err(|d| d.reason.word())
    };
    assert_eq!(
        of_use(vec![ExtendedKeyUsagePurpose::ServerAuth]),
        Err("x509_usage")
    );
    assert_eq!(of_use(vec![ExtendedKeyUsagePurpose::ClientAuth]), Ok(()));
    assert_eq!(of_use(vec![ExtendedKeyUsagePurpose::Any]), Ok(()));
}

#[test]
fn names_that_could_be_read_in_two_ways_name_nobody() {
    let none = made(|p| p.distinguished_name = rcgen::DistinguishedName::new());
    assert_eq!(Certificate::parse(&none).unwrap().common_name(), None);
    let odd = made(|p| {
        p.distinguished_name.push(
            DnType::CommonName,
            DnValue::BmpString(rcgen::string::BmpString::try_from("press-7").unwrap()),
        );
    });
    assert_eq!(Certificate::parse(&odd).unwrap().common_name(), None);
    // subjectAltName with one DNS name whose byte is no UTF-8: 30 03 82 01 ff
    let invalid = made(|p| {
        let san = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x82, 1, 0xff]);
        p.custom_extensions.push(san);
    });
    let parsed = Certificate::parse(&invalid);
    assert!(parsed.is_err() || parsed.is_ok_and(|c| c.alternative_name().is_none()));
}

#[test]
fn damaged_certificates_are_refused_without_a_panic() {
    let der = made(|_| {});
    for end in 0..der.len() {
        assert!(Certificate::parse(&der[..end]).is_err(), "cut at {end}");
    }
    let mut longer = der.clone();
    longer.push(0);
    assert!(Certificate::parse(&longer).is_err());
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 0x41;
        if let Ok(certificate) = Certificate::parse(&changed) {
            assert_ne!(certificate.sha256, fingerprint(&der));
        }
    }
    assert!(Certificate::parse(&vec![0x30; CERTIFICATE_BYTES_MAX + 1]).is_err());
}

#[test]
fn bundles_yield_every_certificate() {
    let (one, two) = (made(|_| {}), made(|_| {}));
    let pem = |der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let bundle = format!("# plant A\n{}{}", pem(&one), pem(&two));
    let found = fingerprints(bundle.as_bytes()).unwrap();
    assert_eq!(found, [fingerprint(&one), fingerprint(&two)]);
    assert_eq!(fingerprints(&one).unwrap(), [fingerprint(&one)]);
    assert!(fingerprints(b"").is_err());
    assert!(
        fingerprints(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err()
    );
    assert!(fingerprints(&bundle.as_bytes()[..bundle.len() - 40]).is_err());
}

#[test]
fn thumbprints_are_read_in_the_forms_tools_print() {
    let plain = parse_thumbprint(&"ab".repeat(20)).unwrap();
    let colons = parse_thumbprint(&["AB"; 20].join(":")).unwrap();
    assert_eq!(plain, colons);
    assert!(parse_thumbprint(&"ab".repeat(32)).is_ok());
    for bad in ["", "ab", &"ab".repeat(21), &"g".repeat(40), "B4172AB4…"] {
        assert!(parse_thumbprint(bad).is_err(), "{bad}");
    }
}
