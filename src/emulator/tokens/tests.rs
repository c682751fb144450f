use super::*;
use crate::config::secret::Secret;
use crate::emulator::config::{DeviceConfig, EmulatorConfig, ModuleConfig, PolicyConfig};
use crate::emulator::hub::Hub;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const HOST: &str = "myhub.azure-devices.net";
const SE: u64 = 1_893_456_000;
const SKEW: u64 = 300;

/// Key 6 of wire sheet §1.6.
fn golden_key() -> Secret {
    Secret::new(
        STANDARD
            .decode("NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=")
            .unwrap(),
    )
}

fn key(text: &str) -> Keys {
    Keys {
        primary: Some(Secret::from(text)),
        secondary: None,
    }
}

fn hub() -> Hub {
    let mut config = EmulatorConfig::loopback(HOST);
    let second = Secret::from("second");
    config.policies.push(PolicyConfig::device_connect(
        "device",
        golden_key(),
        Some(second),
    ));
    config.policies.push(PolicyConfig {
        name: "service".to_owned(),
        rights: Rights {
            service_connect: true,
            ..Rights::default()
        },
        keys: Keys {
            primary: Some(golden_key()),
            secondary: None,
        },
    });
    let mut device1 = DeviceConfig::new(
        "device1",
        Keys {
            primary: Some(golden_key()),
            secondary: None,
        },
    );
    device1.modules.push(ModuleConfig {
        id: "m1".to_owned(),
        keys: key("module"),
    });
    config.devices.push(device1);
    config
        .devices
        .push(DeviceConfig::new("device12", key("other")));
    config
        .devices
        .push(DeviceConfig::new("keyless", Keys::default()));
    Hub::new(config, 0, tokio_util::sync::CancellationToken::new())
}

fn sign(key: &str, sr: &str, se: u64, skn: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(format!("{sr}\n{se}").as_bytes());
    let sig = STANDARD.encode(mac.finalize().into_bytes());
    let sig = sig
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let skn = if skn.is_empty() {
        String::new()
    } else {
        format!("&skn={skn}")
    };
    format!("SharedAccessSignature sr={sr}&sig={sig}&se={se}{skn}")
}

fn verify(token: &str) -> Result<Grant, TokenError> {
    hub().authority().verify(token, Unix::from_secs(SE))
}

fn covers(token: &str, device: &str, module: Option<&str>) -> bool {
    let mut tokens = Tokens::new(10);
    tokens.put(verify(token).unwrap()).unwrap();
    let identity = Identity {
        device: device.into(),
        module: module.map(Into::into),
    };
    tokens
        .covering(&identity, Endpoint::Events, Unix::from_secs(SE))
        .is_some()
}

fn golden(sr: &str, sig: &str, skn: &str) -> String {
    format!("SharedAccessSignature sr={sr}&sig={sig}&se={SE}{skn}")
}

const HUB_TOKEN: (&str, &str) = (
    "myhub.azure-devices.net%2Fdevices",
    "SFklwh13UHqZyBnISox7ZoZSd3AN0AcYF2QqEto7f4Q%3D",
);

#[test]
fn golden_tokens_are_taken_in_each_encoding_of_the_scope() {
    let hub_level = [
        HUB_TOKEN,
        (
            "myhub.azure-devices.net%2fdevices",
            "VXNK4mpUBCvyOUT7FJpSu6X%2FJ9j%2BU9s2EEehcu%2FEmGg%3D",
        ),
        (
            "myhub.azure-devices.net/devices",
            "cUF5H839lImjUvIQSYfGodwv1VCeZm4Ahrbci%2BVPNJc%3D",
        ),
    ];
    for (sr, sig) in hub_level {
        let token = golden(sr, sig, "&skn=device");
        assert!(covers(&token, "device1", None), "{sr}");
        assert!(covers(&token, "anything", Some("m")), "{sr}");
    }
    let device = golden(
        "myhub.azure-devices.net%2Fdevices%2Fdevice1",
        "N8lAED4fWRHDSakXUt%2FkxbE6K2%2FvnU7fbuyc2Y9jGkw%3D",
        "",
    );
    assert!(covers(&device, "device1", None));
    assert!(!covers(&device, "device12", None));
}

#[test]
fn a_tampered_token_and_a_wrong_key_are_refused() {
    let (sr, sig) = HUB_TOKEN;
    let other_case = golden(&sr.replace("%2F", "%2f"), sig, "&skn=device");
    assert_eq!(
        verify(&other_case),
        Err(TokenError::Signature),
        "sr is signed as it stands"
    );
    let later = golden(sr, sig, "&skn=device").replace("se=1893456000", "se=1893456001");
    assert_eq!(verify(&later), Err(TokenError::Signature));
    let wrong = sign("wrong", sr, SE, "device");
    assert_eq!(verify(&wrong), Err(TokenError::Signature));
    let unknown_policy = golden(sr, sig, "&skn=nobody");
    assert_eq!(verify(&unknown_policy), Err(TokenError::Signature));
    assert_eq!(
        verify(&sign("second", sr, SE, "device")).unwrap().signer,
        Signer::Hub
    );
}

#[test]
fn a_token_counts_to_the_second_with_the_skew() {
    let (sr, sig) = HUB_TOKEN;
    let token = golden(sr, sig, "&skn=device");
    let hub = hub();
    let at = |secs| hub.authority().verify(&token, Unix::from_secs(secs));
    assert!(at(SE + SKEW).is_ok());
    assert_eq!(at(SE + SKEW + 1), Err(TokenError::Expired));
    let mut tokens = Tokens::new(1);
    tokens.put(at(SE).unwrap()).unwrap();
    let device = Identity::device("device1");
    let covered = |secs| tokens.covering(&device, Endpoint::Events, Unix::from_secs(secs));
    assert!(covered(SE + SKEW).is_some() && covered(SE + SKEW + 1).is_none());
    assert_eq!(tokens.next_end(), Some(Unix::from_secs(SE + SKEW)));
    assert!(!tokens.drop_expired(Unix::from_secs(SE + SKEW)));
    assert!(tokens.drop_expired(Unix::from_secs(SE + SKEW + 1)) && tokens.is_empty());
}

#[test]
fn a_token_of_another_hub_or_of_a_longer_name_opens_nothing() {
    for sr in [
        "otherhub.azure-devices.net%2Fdevices",
        "myhub.azure-devices.netx%2Fdevices",
    ] {
        assert_eq!(
            verify(&sign("second", sr, SE, "device")),
            Err(TokenError::Scope),
            "{sr}"
        );
    }
    let longer = sign("second", &format!("{HOST}%2FdevicesX"), SE, "device");
    assert!(
        !covers(&longer, "device1", None),
        "a scope is compared segment by segment"
    );
    let prefix = sign(
        "second",
        &format!("{HOST}%2Fdevices%2Fdevice1"),
        SE,
        "device",
    );
    assert!(covers(&prefix, "device1", None) && !covers(&prefix, "device12", None));
    assert!(!covers(&prefix, "DEVICE1", None), "device ids have a case");
    let whole = sign("second", HOST, SE, "device");
    assert!(covers(&whole, "device1", None));
    let with_port = sign("second", &format!("{HOST}%3A15671"), SE, "device");
    assert!(covers(&with_port, "device1", None));
}

#[test]
fn a_policy_without_the_right_opens_no_device_link() {
    let token = golden(
        HOST,
        "zIAG0vYm0x2U5ctNQNgFrrkCliyw5rsvyix53ZkIfrU%3D",
        "&skn=service",
    );
    assert!(!covers(&token, "device1", None));
}

#[test]
fn devices_and_modules_sign_for_themselves_only() {
    let scope = |path: &str| format!("{HOST}%2Fdevices%2F{path}");
    let module = sign("module", &scope("device1%2Fmodules%2Fm1"), SE, "");
    assert!(covers(&module, "device1", Some("m1")) && !covers(&module, "device1", None));
    assert_eq!(
        verify(&sign("other", &scope("device1"), SE, "")),
        Err(TokenError::Signature),
        "another device's key"
    );
    assert_eq!(
        verify(&sign("x", &scope("keyless"), SE, "")),
        Err(TokenError::Signature)
    );
    assert_eq!(
        verify(&sign("other", &format!("{HOST}%2Fdevices"), SE, "")),
        Err(TokenError::Scope)
    );
    let unknown = verify(&sign("x", &scope("nobody"), SE, "")).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "Device nobody at IotHub myhub not registered."
    );
    assert_eq!(unknown.status(), 404);
}

#[test]
fn a_renewal_takes_no_further_place() {
    let mut tokens = Tokens::new(2);
    let scope = |device: &str| format!("{HOST}%2Fdevices%2F{device}");
    let grant = |device, se| verify(&sign("second", &scope(device), se, "device")).unwrap();
    tokens.put(grant("a", SE)).unwrap();
    tokens.put(grant("b", SE)).unwrap();
    tokens.put(grant("a", SE + 60)).unwrap();
    assert_eq!(tokens.put(grant("c", SE)), Err(TokenError::TooMany(2)));
    assert_eq!(
        tokens.next_end(),
        Some(Unix::from_secs(SE + SKEW)),
        "b's token ends first"
    );
}

#[test]
fn tokens_of_event_hubs_clients_are_signed_with_the_text_of_the_key() {
    let text = STANDARD.encode(golden_key().expose());
    let sr = "sb%3A%2F%2Flocalhost%2Fevents";
    let reading = ["events", "consumergroups", "$default"];
    let grant = verify(&sign(&text, sr, SE + 60, "service")).unwrap();
    let service = |rights: Rights| rights.service_connect;
    assert!(grant.may(service, &reading));
    assert!(!grant.may(service, &["other", "consumergroups", "$default"]));
    assert!(!grant.may(|rights| rights.registry_read, &reading));
    // For the hub's own names it is the key's bytes.
    let hub = verify(&sign(&text, "localhost", SE + 60, "service"));
    assert_eq!(hub, Err(TokenError::Signature));
}
