//! Vectors of wire sheet §1.6 and bad tokens.

use super::*;
use proptest::prelude::*;

const HUB: &str = "myhub.azure-devices.net";
const KEY: &str = "NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=";
const SE: u64 = 1_893_456_000;
const BEFORE: Unix = Unix::from_secs(SE - 600);

fn key() -> Vec<u8> {
    STANDARD.decode(KEY).unwrap()
}

fn check(token: &str, client: &str, now: Unix) -> Result<Unix, &'static str> {
    let (key, other) = (key(), vec![1u8; 32]);
    let keys = DeviceKeys {
        primary: &other,
        secondary: Some(&key),
    };
    check_with(token, client, Some(keys), now)
}

fn check_with(
    token: &str,
    client: &str,
    keys: Option<DeviceKeys<'_>>,
    now: Unix,
) -> Result<Unix, &'static str> {
    let (device, module) = super::super::identity::parse_client_id(client).unwrap();
    let of = (&device, module.as_ref());
    verify(token, of, HUB, keys, now, SasSettings::default()).map_err(|d| d.reason.word())
}

/// A token over `sr` as written, signed with the test key.
fn signed(sr: &str, se: &str) -> String {
    let sig = STANDARD.encode(mac(&key(), sr, se));
    format!(
        "SharedAccessSignature sr={sr}&sig={}&se={se}",
        sig.replace('+', "%2B")
    )
}

#[test]
fn signatures_are_those_of_the_sdks() {
    let row = |key: &[u8], sr: &str, se: &str, want: &str| {
        let sig = STANDARD.encode(mac(key, sr, se));
        assert_eq!(utf8_percent_encode(&sig, ENCODED).to_string(), want);
    };
    let fake = [0x7d, 0xa9, 0x1e, 0x29, 0xec];
    row(
        b"password",
        "uri",
        "12345",
        "kcWxXAK2OAaAoq2oCkaGzX2NMqDB8nCyNuq2fPYCDhk%3D",
    );
    row(
        &[0x91, 0xec],
        "host%2Fdevices%2Fdevice",
        "12345",
        "wM3XiP6gD960IxP7J5WHqnxQHEcWC6YaQCtoMT%2BkKHc%3D",
    );
    row(
        &fake,
        "fake.host.name%2Fdevices%2FfakeDeviceId",
        "10",
        "bYz5R2IFTaejB6pgYOxns2mw6lcuA4VSy8kJbYQp0Sc%3D",
    );
    row(
        &[0x91, 0xec],
        "host",
        "12345",
        "88JmrIsVYOGmRSjCO1x1LLbv0K001Gikh1rjfJqbQXA%3D",
    );
    row(
        b"secret",
        "test.azure-devices.net%2Fdevices%2Ftest",
        "1483236061",
        "IMr3Y5GKbdixQSt96QgIEymAURnu3qzLvEHhGHPLxrU%3D",
    );
    let own = |sr: &str, want: &str| row(&key(), sr, "1893456000", want);
    own(
        "myhub.azure-devices.net%2fdevices",
        "VXNK4mpUBCvyOUT7FJpSu6X%2FJ9j%2BU9s2EEehcu%2FEmGg%3D",
    );
    own(
        "myhub.azure-devices.net/devices",
        "cUF5H839lImjUvIQSYfGodwv1VCeZm4Ahrbci%2BVPNJc%3D",
    );
    own(
        "myhub.azure-devices.net",
        "zIAG0vYm0x2U5ctNQNgFrrkCliyw5rsvyix53ZkIfrU%3D",
    );
}

#[test]
fn minted_tokens_are_those_of_the_wire_sheet() {
    let ends = Unix::from_secs(SE);
    let device = mint(
        "myhub.azure-devices.net/devices/device1",
        &key(),
        ends,
        None,
    );
    assert_eq!(
        device,
        "SharedAccessSignature sr=myhub.azure-devices.net%2Fdevices%2Fdevice1\
         &sig=N8lAED4fWRHDSakXUt%2FkxbE6K2%2FvnU7fbuyc2Y9jGkw%3D&se=1893456000"
    );
    let me = mint(
        "uri",
        b"password",
        Unix::from_secs(12_345),
        Some("encode('Me')"),
    );
    assert!(me.ends_with("&se=12345&skn=encode%28%27Me%27%29"));
    assert_eq!(
        check(&device, "device1", BEFORE).map(Unix::as_secs),
        Ok(SE + 300)
    );
}

#[test]
fn either_key_verifies_and_no_third() {
    let token = signed("myhub.azure-devices.net%2Fdevices%2Fd1", "1893456000");
    let (right, wrong) = (key(), vec![2u8; 32]);
    let keys = |primary, secondary| DeviceKeys { primary, secondary };
    let row = |keys: Option<DeviceKeys<'_>>| check_with(&token, "d1", keys, BEFORE).map(|_| ());
    assert_eq!(row(Some(keys(&right, None))), Ok(()));
    assert_eq!(row(Some(keys(&wrong, Some(&right)))), Ok(()));
    assert_eq!(row(Some(keys(&wrong, Some(&wrong)))), Err("sas_signature"));
    assert_eq!(row(Some(keys(&wrong, None))), Err("sas_signature"));
    assert_eq!(row(None), Err("device_unknown"));
    // the stand-in for a missing key is nobody's key
    let sr = "myhub.azure-devices.net%2Fdevices%2Fd1";
    let dummy = mint(
        &sr.replace("%2F", "/"),
        &DUMMY_KEY,
        Unix::from_secs(SE),
        None,
    );
    assert_eq!(
        check_with(&dummy, "d1", None, BEFORE),
        Err("device_unknown")
    );
    assert_eq!(
        check_with(&dummy, "d1", Some(keys(&wrong, None)), BEFORE),
        Err("sas_signature")
    );
}

#[test]
fn expiry_counts_to_the_second_with_five_minutes_grace() {
    let token = signed("myhub.azure-devices.net%2Fdevices%2Fd1", "1893456000");
    let at = |s| check(&token, "d1", Unix::from_secs(s)).map(|_| ());
    assert_eq!(at(SE + 299), Ok(()));
    assert_eq!(at(SE + 300), Err("sas_expired"));
    let zero = signed("myhub.azure-devices.net%2Fdevices%2Fd1", "0");
    assert_eq!(check(&zero, "d1", BEFORE), Err("sas_expired"));
}

#[test]
fn the_scope_is_the_device_by_whole_segments() {
    let row = |sr: &str, client: &str, want: Result<(), &'static str>| {
        let token = signed(sr, "1893456000");
        assert_eq!(
            check(&token, client, BEFORE).map(|_| ()),
            want,
            "{sr} for {client}"
        );
    };
    const NO: Result<(), &str> = Err("sas_scope");
    // as sent: escapes of either case, or none
    row("myhub.azure-devices.net%2Fdevices%2Fd1", "d1", Ok(()));
    row("myhub.azure-devices.net%2fdevices%2fd1", "d1", Ok(()));
    row("myhub.azure-devices.net/devices/d1", "d1", Ok(()));
    row("myhub.azure-devices.net/devices/d1/", "d1", Ok(()));
    row("MYHUB.azure-devices.net/devices/d1", "d1", Ok(()));
    row("myhub.azure-devices.net/devices/d1", "D1", Ok(()));
    row(
        "myhub.azure-devices.net%2Fdevices%2Fd1%2Fapi-version%3D2016-11-14",
        "d1",
        Ok(()),
    );
    row(
        "myhub.azure-devices.net/devices/d1/?api-version=2016-11-14",
        "d1",
        Ok(()),
    );
    row(
        "myhub.azure-devices.net%2Fdevices%2Fdev%24a%3A1%2Fmodules%2Fm1",
        "dev$a:1/m1",
        Ok(()),
    );
    row("myhub.azure-devices.net%2Fdevices%2Fd1", "d1/m1", Ok(()));
    row(
        "myhub.azure-devices.net%2Fdevices%2Fa%252Fb",
        "a%2Fb",
        Ok(()),
    );
    // others' and broader ones
    row("myhub.azure-devices.net%2Fdevices%2Fa%2Fb", "a%2Fb", NO);
    row("myhub.azure-devices.net%2Fdevices%2Fd10", "d1", NO);
    row("myhub.azure-devices.net%2Fdevices%2Fd", "d1", NO);
    row("myhub.azure-devices.net%2FdevicesX%2Fd1", "d1", NO);
    row("myhub.azure-devices.net%2Fdevices", "d1", NO);
    row("myhub.azure-devices.net", "d1", NO);
    row("other.azure-devices.net%2Fdevices%2Fd1", "d1", NO);
    row("myhub.azure-devices.net.evil%2Fdevices%2Fd1", "d1", NO);
    row(
        "myhub.azure-devices.net%2Fdevices%2Fd1%2Fmodules%2Fm1",
        "d1",
        NO,
    );
    row(
        "myhub.azure-devices.net%2Fdevices%2Fd1%2Fmodules%2Fm2",
        "d1/m1",
        NO,
    );
    row(
        "myhub.azure-devices.net%2Fdevices%2Fd1%2Fmessages",
        "d1",
        NO,
    );
    row("%2Fdevices%2Fd1", "d1", NO);
    row("myhub.azure-devices.net%2F%2Fdevices%2Fd1", "d1", NO);
    row("api-version=1", "d1", NO);
    row("%FF%FE", "d1", Err("sas_malformed"));
}

#[test]
fn fields_come_in_any_order_and_case() {
    let token = signed("myhub.azure-devices.net%2Fdevices%2Fd1", "1893456000");
    let fields: Vec<&str> = token.split_once(' ').unwrap().1.split('&').collect();
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let fields = order.map(|i| fields[i]).join("&");
        let token = format!("SharedAccessSignature {fields}");
        assert!(check(&token, "d1", BEFORE).is_ok());
        let token = format!("SharedAccessSignature {fields}&skn=");
        assert!(
            check(&token, "d1", BEFORE).is_ok(),
            "an empty skn, as one Go client sends"
        );
    }
    let upper = token.replace("sr=", "SR=").replace("&se=", "&Se=");
    assert!(check(&upper, "d1", BEFORE).is_ok());
}

#[test]
fn a_signature_may_leave_slash_and_padding_unescaped() {
    let token = mint(
        "myhub.azure-devices.net/devices/device1",
        &key(),
        Unix::from_secs(SE),
        None,
    );
    let raw = token
        .replace("%2FkxbE", "/kxbE")
        .replace("%2Fvn", "/vn")
        .replace("%3D", "=");
    assert_ne!(raw, token);
    assert!(check(&raw, "device1", BEFORE).is_ok());
}

#[test]
fn malformed_tokens_are_refused_as_such() {
    let good = signed("myhub.azure-devices.net%2Fdevices%2Fd1", "1893456000");
    let fields = good.split_once(' ').unwrap().1;
    let bad = [
        "blah".to_owned(),
        String::new(),
        "SharedAccessSignature".to_owned(),
        "SharedAccessSignature ".to_owned(),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("SharedAccessSignature  {fields}"),
        format!("sharedaccesssignature {fields}"),
        format!("SharedAccessSignature{fields}"),
        format!("SharedAccessSignature {}", fields.replace("&se", "& se")),
        fields.to_owned(),
        good.replace("sr=", "rs="),
        good.replace("&se=", "&es="),
        good.replace("&sig=", "&gis="),
        format!("{good}&sr=other"),
        format!("{good}&SE=1893456001"),
        format!("{good}&flag"),
        good.replace("se=1893456000", "se=-1"),
        good.replace("se=1893456000", "se=1e9"),
        good.replace("se=1893456000", "se="),
        good.replace("se=1893456000", "se=99999999999999999999999"),
        good.replace("se=1893456000", "se=253402300800"),
        "SharedAccessSignature sr=a&sig=AAAA&se=1893456000".to_owned(),
        "SharedAccessSignature sr=a&sig=%%%&se=1893456000".to_owned(),
        "SharedAccessSignature sr=&sig=AAAA&se=1".to_owned(),
        format!(
            "SharedAccessSignature sr=a&sig={}&se=1",
            "A".repeat(100_000)
        ),
    ];
    for token in bad {
        assert_eq!(
            check(&token, "d1", BEFORE),
            Err("sas_malformed"),
            "{token:.200}"
        );
    }
}

#[test]
fn a_password_that_is_meant_to_be_a_token_is_seen() {
    for token in [
        "SharedAccessSignature sr=",
        " sharedaccesssignature",
        "SharedAccessSignature",
    ] {
        assert!(looks_like_token(token.as_bytes()), "{token}");
    }
    for other in ["", "Shared", "secret SharedAccessSignature "] {
        assert!(!looks_like_token(other.as_bytes()), "{other}");
    }
}

proptest! {
    #[test]
    fn no_input_panics_or_verifies(text in "\\PC{0,300}") {
        prop_assert!(check(&text, "d1", BEFORE).is_err());
        let token = format!("SharedAccessSignature {text}");
        prop_assert!(check(&token, "d1", BEFORE).is_err());
        let fields = format!("SharedAccessSignature sr={text}&sig={text}&se=1893456000");
        prop_assert!(check(&fields, "d1", BEFORE).is_err());
    }

    #[test]
    fn any_changed_byte_of_a_token_is_noticed(at in 0usize..140, to in 0x21u8..0x7f) {
        let sr = "myhub.azure-devices.net%2Fdevices%2Fd1";
        let token = signed(sr, "1893456000");
        let mut bytes = token.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = to;
        let changed = String::from_utf8(bytes).unwrap();
        let fields = |t: &str| t.to_ascii_lowercase();
        // letter case of field names is free
        if fields(&changed) != fields(&token) {
            prop_assert!(check(&changed, "d1", BEFORE).is_err(), "{changed}");
        }
    }

    #[test]
    fn what_is_minted_verifies_for_its_device_alone(id in "[A-Za-z0-9%$?!(),=@':_.*-]{1,40}") {
        let token = mint(&format!("{HUB}/devices/{id}"), &key(), Unix::from_secs(SE), None);
        prop_assert!(check(&token, &id, BEFORE).is_ok());
        prop_assert_eq!(check(&token, &format!("{id}x"), BEFORE), Err("sas_scope"));
    }
}
