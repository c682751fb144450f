//! What devices whose firmware nobody will change say badly, and what becomes of it by rule.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK};

/// A device of this name whose entry holds `keys`.
fn with_device(options: &mut Options, id: &str, keys: &str) -> Transport {
    let key = "hex:303132333435363738396162636465660a";
    options.rules += &format!("[[device]]\nid = \"{id}\"\n{keys}\npsk = {{ key = \"{key}\" }}\n");
    options.emulator += &format!("[[device]]\nid = \"{id}\"\n");
    Transport::Psk {
        identity: id.to_owned(),
        key: b"0123456789abcdef\n".to_vec(),
        tls13: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_property_bag_is_sent_on_where_a_rule_is_lenient_and_refused_where_not() {
    let mut options = Options::default();
    let transport = with_device(&mut options, "sloppy-1", "properties = \"lenient\"");
    let bench = Bench::start("lenient", options).await;
    let mut sloppy = Device::connect(bench.mqtt(), &transport, &Who::id("sloppy-1")).await;
    let bag = "?a=100%&b=1&b=2&=x&c=%ZZ/";
    let topic = format!("devices/sloppy-1/messages/events/{bag}");
    sloppy.publish(&topic, b"1").await.expect("PUBACK");
    let messages = bench.emulator.ledger().messages(None, 0, 10);
    let properties = ["a", "b", "c"].map(|name| messages[0].property(name));
    assert_eq!(properties, [Some("100%"), Some("2"), Some("%ZZ")]);
    assert_eq!(messages[0].property(""), None);
    for (how, count) in [("escape_kept", 2.0), ("repeated", 1.0), ("nameless", 1.0)] {
        let label = format!("how=\"{how}\"");
        let mended = bench.metric("properties_mended_total", &[&label]).await;
        assert_eq!(mended, count, "{how}");
    }
    for (bag, reason) in [
        ("a=%ZZ", "bag_escape"),
        ("=x", "bag_empty_key"),
        ("a=1&a=2", "property_duplicate"),
    ] {
        let strict = Transport::Psk {
            identity: "psk-1".to_owned(),
            key: PSK.to_vec(),
            tls13: true,
        };
        let mut device = Device::connect(bench.mqtt(), &strict, &Who::id("psk-1")).await;
        let topic = format!("devices/psk-1/messages/events/{bag}");
        assert!(device.publish(&topic, b"1").await.is_err(), "{bag}");
        let label = format!("reason=\"{reason}\"");
        bench.reaches("disconnects_total", &[&label], 1.0).await;
    }
}
