//! SAS tokens: minting one, and checking a device's. HMAC-SHA256 is most of it.

use crate::support::Suite;
use hmac::{Hmac, KeyInit, Mac};
use iothub_gateway::auth::identity::DeviceId;
use iothub_gateway::auth::sas::{DeviceKeys, SasSettings, mint, verify};
use iothub_gateway::runtime::clock::Unix;
use sha2::Sha256;
use std::hint::black_box;

const HUB: &str = "myhub.azure-devices.net";
const KEY: [u8; 32] = [7; 32];
const OTHER_KEY: [u8; 32] = [8; 32];

/// All of them.
pub fn all(suite: &mut Suite) {
    let scope = format!("{HUB}/devices");
    let (now, expires) = (
        Unix::from_secs(1_800_000_000),
        Unix::from_secs(1_800_003_600),
    );
    suite.versus(
        "mint",
        || mint(black_box(&scope), &KEY, expires, Some("device")),
        "one HMAC",
        || signature(&scope),
    );
    let device = DeviceId::parse("pump-3").expect("a legal id");
    let resource = format!("{HUB}/devices/pump-3");
    let settings = SasSettings::default();
    let keys = DeviceKeys {
        primary: &KEY,
        secondary: Some(&OTHER_KEY),
    };
    let good = mint(&resource, &KEY, expires, None);
    let second = mint(&resource, &OTHER_KEY, expires, None);
    let forged = mint(&resource, &[9; 32], expires, None);
    for (name, token, keys, valid) in [
        ("verify_primary_key", &good, Some(keys), true),
        ("verify_secondary_key", &second, Some(keys), true),
        ("verify_wrong_key", &forged, Some(keys), false),
        ("verify_unknown_device", &good, None, false),
    ] {
        // Two: the second key is always tried, so that time tells nothing.
        suite.versus(
            name,
            || {
                let checked = verify(black_box(token), (&device, None), HUB, keys, now, settings);
                assert_eq!(checked.is_ok(), valid, "{name}");
            },
            "two HMACs",
            || (signature(&resource), signature(&resource)),
        );
    }
}

fn signature(text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(black_box(&KEY)).expect("any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}
