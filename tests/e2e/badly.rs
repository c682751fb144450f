//! What devices whose firmware nobody will change say badly, and what becomes of it by rule.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK, fleet_key};
use mqttbytes::v4::ConnectReturnCode;
use std::process::Command;
use std::time::Duration;

/// A device of this name whose entry holds `keys`.
fn with_device(options: &mut Options, id: &str, keys: &str) -> Transport {
    let key = "hex:303132333435363738396162636465660a";
    options.rules += &format!("[[device]]\nid = \"{id}\"\n{keys}\npsk = {{ key = \"{key}\" }}\n");
    options.emulator += &format!("[[device]]\nid = \"{id}\"\n");
    Transport::psk(id, b"0123456789abcdef\n")
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
        ("a=1&a=2", "bag_duplicate"),
    ] {
        let strict = Transport::psk("psk-1", PSK);
        let mut device = Device::connect(bench.mqtt(), &strict, &Who::id("psk-1")).await;
        let topic = format!("devices/psk-1/messages/events/{bag}");
        assert!(device.publish(&topic, b"1").await.is_err(), "{bag}");
        let label = format!("reason=\"{reason}\"");
        bench.reaches("disconnects_total", &[&label], 1.0).await;
    }
}

/// Runs `refused …` on the bench's configuration: exit code and standard output.
async fn refused(bench: &Bench, arguments: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"));
    let mut words = arguments.split(' ');
    command.arg("refused").args(words.next());
    command.arg("-c").arg(bench.dir.join("gateway.toml"));
    command.args(words);
    let done = tokio::task::spawn_blocking(move || command.output()).await;
    let done = done.expect("joined").expect("the binary starts");
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// `refused_messages_total{action}`.
async fn acted(bench: &Bench, action: &str) -> f64 {
    let label = format!("action=\"{action}\"");
    bench.metric("refused_messages_total", &[&label]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_acknowledged_and_gone_where_a_rule_discards() {
    let mut options = Options::default();
    let transport = with_device(&mut options, "tosser-1", "on_refused = \"discard\"");
    let bench = Bench::start("discard", options).await;
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("tosser-1")).await;
    let events = "devices/tosser-1/messages/events/";
    let large = vec![b'x'; 256 * 1024];
    let bad = [
        (events.to_owned(), &large[..], "message_too_large"),
        (format!("{events}a=%ZZ"), b"1", "bag_escape"),
        (format!("{events}iothub-x=1"), b"1", "property_reserved"),
        ("anything".to_owned(), b"1", "topic_unknown"),
    ];
    for (count, (topic, body, reason)) in (1..).zip(bad) {
        device.publish(&topic, body).await.expect("PUBACK");
        device.publish(events, b"good").await.expect("PUBACK");
        assert_eq!(
            acted(&bench, "discarded").await,
            f64::from(count),
            "{reason}"
        );
    }
    let messages = bench.emulator.ledger().messages(None, 0, 10);
    assert_eq!(messages.len(), 4);
    assert!(
        messages
            .iter()
            .all(|m| m.body().is_some_and(|b| &b[..] == b"good"))
    );
    let inflight = bench.metric("inflight", &["uplink"]).await;
    assert_eq!(inflight, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_kept_whole_where_a_rule_says_so_and_can_be_sent_again() {
    let mut options = Options::default();
    let transport = with_device(&mut options, "keeper-1", "on_refused = \"file\"");
    // Room for a large message and three small ones.
    options.gateway = "[limits]\nrefused_folder_bytes = \"272KiB\"\n".to_owned();
    options.refused_folder = true;
    let bench = Bench::start("keep", options).await;
    let mut device = Device::connect(bench.mqtt(), &transport, &Who::id("keeper-1")).await;
    let events = "devices/keeper-1/messages/events/";
    let topic = format!("{events}a=100%&b=2");
    device.publish(&topic, b"kept").await.expect("PUBACK");
    device.publish(&topic, b"kept too").await.expect("PUBACK");
    let large = vec![b'x'; 256 * 1024];
    device.publish(events, &large).await.expect("PUBACK");
    device.publish(events, b"good").await.expect("PUBACK");
    assert_eq!(acted(&bench, "filed").await, 3.0);
    let used = ["limit=\"refused_folder_bytes\""];
    assert_eq!(bench.metric("limit_in_use", &used).await, 268.0 * 1024.0);
    // There is no room for more: refused as without a rule.
    assert!(device.publish(&topic, b"too many").await.is_ok());
    assert!(device.publish(&topic, b"one more").await.is_err());
    assert_eq!(acted(&bench, "not_filed").await, 1.0);
    assert_eq!(acted(&bench, "closed").await, 1.0);

    let (code, listed) = refused(&bench, "list").await;
    assert_eq!(code, Some(0), "{listed}");
    let rows: Vec<&str> = listed.lines().collect();
    assert_eq!(rows.len(), 4, "{listed}");
    assert!(rows[0].contains("keeper-1  bag_escape  4 B") && rows[0].ends_with(&topic));
    let id = |row: &str| row.split(' ').next().expect("a name").to_owned();
    let (code, text) = refused(&bench, &format!("drop {}", id(rows[1]))).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = refused(&bench, "resend --all").await;
    assert_eq!(code, Some(1), "the large one is refused again: {text}");
    assert!(text.contains("message_too_large"), "{text}");
    let messages = bench.emulator.ledger().messages(None, 0, 10);
    let bodies: Vec<&[u8]> = messages
        .iter()
        .filter_map(|m| m.body().map(|b| &b[..]))
        .collect();
    assert_eq!(bodies, [&b"good"[..], b"kept", b"too many"]);
    assert_eq!(messages[1].device(), "keeper-1");
    let properties = ["a", "b"].map(|name| messages[1].property(name));
    assert_eq!(properties, [Some("100%"), Some("2")]);
    let (_, left) = refused(&bench, "list").await;
    assert_eq!(left.lines().count(), 1, "{left}");
    assert!(left.contains(&id(rows[2])), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_in_a_loop_is_named_and_paced_and_its_neighbours_do_not_notice() {
    let options = Options {
        fleet: 1,
        ..Options::default()
    };
    let bench = Bench::start("poison", options).await;
    let neighbour = Transport::psk("load-0", &fleet_key(0));
    let mut neighbour = Device::connect(bench.mqtt(), &neighbour, &Who::id("load-0")).await;
    let poisoned = Transport::psk("psk-1", PSK);
    let (mut closed, mut held) = (0, 0);
    while held < 3 {
        match Device::try_connect(bench.mqtt(), &poisoned, &Who::id("psk-1")).await {
            Ok(Ok(mut device)) => {
                let topic = "devices/psk-1/messages/events/a=%ZZ";
                assert!(device.publish(topic, b"1").await.is_err());
                closed += 1;
                // Its claim ends a little after its socket.
                bench
                    .reaches("disconnects_total", &["bag_escape"], f64::from(closed))
                    .await;
            }
            Ok(Err(code)) => {
                assert_eq!(code, ConnectReturnCode::ServiceUnavailable);
                held += 1;
            }
            Err(error) => panic!("{error}"),
        }
        let topic = "devices/load-0/messages/events/";
        neighbour.publish(topic, b"1").await.expect("PUBACK");
        assert!(closed < 20, "never paced");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(closed, 5);
    let label = ["result=\"poison_loop\""];
    assert_eq!(bench.metric("connects_total", &label).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_keep_messages_need_a_folder() {
    let mut options = Options::default();
    with_device(&mut options, "keeper-1", "on_refused = \"file\"");
    let dir = crate::support::scratch("no-folder");
    let _hub = crate::support::hub_in(&dir, &options).await;
    let text = crate::support::gateway_toml(&options, 1, 0, 0, 0);
    std::fs::write(dir.join("gateway.toml"), text).expect("written");
    let problems = iothub_gateway::gateway::load(&dir.join("gateway.toml")).err();
    let problem = problems.expect("refused")[0].to_string();
    assert!(
        problem.contains("rules.toml:") && problem.contains("refused_folder"),
        "{problem}"
    );
}
