//! CONNECTs: every combination of credentials, odd ids, foreign ids and topics.

use crate::raw::{
    Connect, Raw, SOON, connected, field, metric_is, options, packet, publish, subscribe,
};
use crate::support::device::Transport;
use crate::support::{Bench, Options, PASSWORD, PSK};
use std::collections::BTreeMap;

/// How the wire is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Plain,
    Tls,
    Psk,
}

/// How a field of CONNECT is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Absent,
    Empty,
    Nul,
    Wrong,
    Right,
}

const FILLS: [Fill; 5] = [
    Fill::Absent,
    Fill::Empty,
    Fill::Nul,
    Fill::Wrong,
    Fill::Right,
];

impl Fill {
    fn of(self, right: &str) -> Option<Vec<u8>> {
        match self {
            Self::Absent => None,
            Self::Empty => Some(Vec::new()),
            Self::Nul => Some(format!("{right}\0").into_bytes()),
            Self::Wrong => Some(right.to_lowercase().replace('a', "b").into_bytes()),
            Self::Right => Some(right.as_bytes().to_vec()),
        }
    }
}

/// The return code of CONNACK; `None`: closed without one (a malformed CONNECT of MQTT 3.1.1).
fn expected(wire: Wire, user: Fill, password: Fill) -> Option<u8> {
    let asked = !matches!(password, Fill::Absent | Fill::Empty);
    match (user, password) {
        (Fill::Nul, _) => None,
        (Fill::Absent, password) if password != Fill::Absent => None,
        _ if !asked && wire == Wire::Psk => Some(0),
        // A second credential is never ignored: it is right, and another device's.
        (Fill::Right, Fill::Right) if wire == Wire::Psk => Some(2),
        (Fill::Right, Fill::Right) => Some(0),
        _ => Some(4),
    }
}

fn psk(identity: &str, key: &[u8]) -> Transport {
    Transport::Psk {
        identity: identity.to_owned(),
        key: key.to_vec(),
        tls13: true,
    }
}

/// 75 CONNECTs; exactly the documented ones pass.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_documented_connects_pass() {
    let bench = Bench::start("connects", options("")).await;
    let mut results: BTreeMap<&str, u32> = BTreeMap::new();
    for wire in [Wire::Plain, Wire::Tls, Wire::Psk] {
        let (address, transport, id) = match wire {
            Wire::Plain => (bench.plain(), Transport::Plain, "pass-1"),
            Wire::Tls => (bench.mqtt(), bench.tls(), "pass-1"),
            Wire::Psk => (bench.mqtt(), psk("psk-1", PSK), "psk-1"),
        };
        for user in FILLS {
            for password in FILLS {
                let mut connect = Connect::id(id);
                connect.username = user.of("pass-1");
                connect.password = password.of(PASSWORD);
                let mut raw = Raw::over(address, &transport).await.expect("a transport");
                let answer = raw.connect(&connect).await;
                let case = format!("{wire:?}, user {user:?}, password {password:?}");
                assert_eq!(answer, expected(wire, user, password), "{case}");
                let result = match answer {
                    None => "malformed",
                    Some(0) => "passed",
                    Some(_) => "refused",
                };
                *results.entry(result).or_default() += 1;
                if answer == Some(0) {
                    raw.send(&[0xE0, 0]).await.expect("sent");
                }
                raw.closed_within(SOON).await;
            }
        }
    }
    assert_eq!(results["passed"], 2 + 2 * 3 + 1, "{results:?}");
    metric_is(&bench, "connections", &[], 0.0).await;
}

/// spellings of a client id that are not the device's id.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_client_id_but_its_own_is_admitted() {
    let bench = Bench::start("client-ids", options("")).await;
    let long = [b"pass-1".to_vec(), vec![b'x'; 123]].concat();
    let odd: &[&[u8]] = &[
        b"",
        b" ",
        b"pass-1 ",
        b" pass-1",
        b"pass-1#",
        b"pass-1+",
        b"pass-1/",
        b"/pass-1",
        b"pass-1/m",
        b"pass-1/m/n",
        b"pass-1%00",
        b"pass%2D1",
        b"PASS-1",
        b"Pass-1",
        b"$pass-1",
        b"..",
        b"../pass-1",
        b"pass-1\0",
        b"\0",
        b"pass-1\n",
        b"pass\x1b[31m-1",
        b"sas-1",
        b"p\xd0\xb0ss-1",
        b"pass\xe2\x80\x901",
        b"\xef\xbb\xbfpass-1",
        b"\xe2\x80\xaepass-1",
        b"pass\xc0\xaf1",
        b"pass-1\xed\xa0\x80",
        b"pass-1\xff",
        b"pass-1\xf4\x90\x80\x80",
        &long,
    ];
    for id in odd {
        let mut connect = Connect::pass_1();
        connect.client_id = id.to_vec();
        let mut raw = Raw::plain(bench.plain()).await;
        let answer = raw.connect(&connect).await;
        assert_ne!(answer, Some(0), "{}", id.escape_ascii());
        assert!(
            matches!(answer, None | Some(2)),
            "{}: {answer:?}",
            id.escape_ascii()
        );
        raw.closed_within(SOON).await;
    }
    assert_eq!(
        bench
            .metric("connects_total", &["result=\"accepted\""])
            .await,
        0.0
    );
    // Each was a right password, and still nobody's device was touched.
    assert_eq!(bench.emulator.stats().accepted, 0);
}

/// identities with `/`, `#` and `%` name what their entry says and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn odd_psk_identities_reach_only_the_device_their_entry_names() {
    let key = b"0123456789abcdef";
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let device = |id: &str, identity: &str| {
        format!(
            "[[device]]\nid = \"{id}\"\npsk = {{ identity = \"{identity}\", key = \"{hex}\" }}\n"
        )
    };
    // Keys of their own, or the rules are refused for sharing one.
    let rules = [
        device("odd-1", "line/4#2%00+"),
        device("gate-7", "gate/7"),
        "[[rule]]\nname = \"gates\"\nwhen = { credential = \"psk\", identity = \"gate/*\" }\n\
         device_id = \"{identity}\"\n"
            .to_owned(),
    ];
    let emulator = "[[device]]\nid = \"odd-1\"\n[[device]]\nid = \"gate-7\"\n".to_owned();
    let options = Options {
        rules: rules.concat(),
        emulator,
        ..options("")
    };
    let bench = Bench::start("odd-identities", options).await;
    let row = async |identity: &str, client_id: &str| {
        let transport = psk(identity, key);
        let mut raw = Raw::over(bench.mqtt(), &transport)
            .await
            .expect("a handshake");
        let answer = raw.connect(&Connect::id(client_id)).await;
        drop(raw);
        answer
    };
    assert_eq!(row("line/4#2%00+", "odd-1").await, Some(0));
    assert_eq!(row("line/4#2%00+", "line/4#2%00+").await, Some(2));
    assert_eq!(row("line/4#2%00+", "psk-1").await, Some(2));
    // The rule fits first, and its template gives no device id.
    assert_eq!(row("gate/7", "gate-7").await, Some(5));
    assert_eq!(row("gate/7", "gate/7").await, Some(5));
    for (result, count) in [("device_id_invalid", 2.0), ("client_id_mismatch", 1.0)] {
        let label = format!("result=\"{result}\"");
        metric_is(&bench, "connects_total", &[&label], count).await;
    }
    // Identity of B with the key of A, in both versions: no handshake.
    for tls13 in [true, false] {
        let transport = Transport::Psk {
            identity: "psk-1".to_owned(),
            key: key.to_vec(),
            tls13,
        };
        assert!(Raw::over(bench.mqtt(), &transport).await.is_err());
    }
}

/// the credentials of A with the client id of B, while B is connected.
#[tokio::test(flavor = "multi_thread")]
async fn who_claims_the_id_of_another_device_does_not_disturb_it() {
    let bench = Bench::start("claims", options("")).await;
    let mut victim = connected(&bench, &Connect::sas_1()).await;
    let certificate = Transport::Tls {
        ca: bench.dir.join("ca.pem"),
        certificate: Some((bench.dir.join("cert-1.pem"), bench.dir.join("cert-1.key"))),
    };
    let with_id = |mut connect: Connect| {
        connect.client_id = b"sas-1".to_vec();
        connect
    };
    let attempts = [
        (bench.plain(), Transport::Plain, with_id(Connect::pass_1())),
        (bench.mqtt(), psk("psk-1", PSK), Connect::id("sas-1")),
        (bench.mqtt(), certificate, Connect::id("sas-1")),
        (bench.mqtt(), bench.tls(), with_id(Connect::pass_1())),
    ];
    for (address, transport, connect) in &attempts {
        for _ in 0..5 {
            let mut raw = Raw::over(*address, transport).await.expect("a transport");
            assert_eq!(raw.connect(connect).await, Some(2));
        }
        let topic = "devices/sas-1/messages/events/";
        victim
            .send(&publish(topic, 1, b"still here"))
            .await
            .expect("sent");
        assert_eq!(victim.read(4).await, [0x40, 2, 0, 1]);
    }
    metric_is(&bench, "connects_total", &["client_id_mismatch"], 20.0).await;
    assert_eq!(
        bench
            .metric("connects_total", &["result=\"accepted\""])
            .await,
        1.0
    );
}

/// Spellings of another device's topic, and of one's own that are not it.
fn spellings(root: &str) -> Vec<String> {
    let mut all = Vec::new();
    for device in [
        "sas-1",
        "sas%2D1",
        "sas-1%00",
        "SAS-1",
        "pass-1/../sas-1",
        "./sas-1",
        "sas-1/modules/m",
        "pass-1/modules/sas-1",
        "pass-1%2F..%2Fsas-1",
        "/sas-1",
        "sas-1/",
        "pass-1//",
        "",
        " sas-1",
        "pass-1 ",
        "p\u{430}ss-1",
        "$sas-1",
        "..",
        "pass-1/messages/events/../../sas-1",
        "pass-1\u{200b}",
    ] {
        all.push(format!("devices/{device}/messages/{root}"));
    }
    for prefix in [
        "/devices",
        "Devices",
        "$devices",
        "devices/",
        "devices%2F",
        "//devices",
        "a/devices",
    ] {
        all.push(format!("{prefix}/sas-1/messages/{root}"));
        all.push(format!("{prefix}/pass-1/messages/{root}"));
    }
    all.extend(
        [
            "$iothub/twin/#",
            "$SYS/#",
            "$iothub/methods/POST/x",
            "devices",
            "/",
            "a",
        ]
        .map(String::from),
    );
    all
}

///
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_topic_reaches_another_device() {
    let bench = Bench::start("topics", options("")).await;
    let topics = spellings("events/");
    assert!(topics.len() >= 40);
    for topic in &topics {
        let mut device = connected(&bench, &Connect::pass_1()).await;
        device
            .send(&publish(topic, 1, b"foreign"))
            .await
            .expect("sent");
        assert_eq!(device.closed_within(SOON).await, b"", "{topic}");
    }
    let mut device = connected(&bench, &Connect::pass_1()).await;
    let mut filters = spellings("devicebound/#");
    for wide in [
        "#",
        "+/+/+/+/#",
        "devices/#",
        "devices/+/messages/devicebound/#",
        "+/pass-1/#",
    ] {
        filters.push(wide.to_owned());
    }
    for (round, filter) in filters.iter().enumerate() {
        let id = u16::try_from(round + 1).expect("few");
        let [high, low] = id.to_be_bytes();
        if device.send(&subscribe(id, &[filter])).await.is_err() {
            panic!("closed before {filter}");
        }
        let refused = device.read_or_end(5).await;
        if refused.is_empty() {
            // A filter that is malformed as such ends the connection.
            device = connected(&bench, &Connect::pass_1()).await;
            continue;
        }
        assert_eq!(refused, [0x90, 3, high, low, 0x80], "{filter}");
    }
    assert!(bench.emulator.ledger().messages(None, 0, 10).is_empty());
    let (_, commands) = bench
        .control("POST", "/devices/sas-1/commands", "secret")
        .await;
    assert!(commands.contains("seq"), "{commands}");
    device.send(&[0xC0, 0]).await.expect("sent");
    assert_eq!(
        device.read(2).await,
        [0xD0, 0],
        "and no command of another device"
    );
    let own = packet(
        0x30,
        &[&field(b"devices/pass-1/messages/events/")[..], b"own"].concat(),
    );
    device.send(&own).await.expect("sent");
}
