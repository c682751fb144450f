//! Differential: what we write serde_amqp reads as the same, and the reverse.

use super::generate::{
    attach, error, fields, flow, number, open, role, state, text, transfer, value,
};
use crate::amqp::message::{self, Kind};
use crate::amqp::performative::{self, Disposition, Flow, Performative};
use crate::amqp::types::{self, Malformed};
use crate::amqp::{Limits, frame};
use bytes::BytesMut;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Data, DeliveryAnnotations, Footer, Header,
    MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::performatives as kept;
use fe2o3_amqp_types::primitives::SimpleValue;
use fe2o3_amqp_types::sasl;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_amqp::primitives::{Binary, Symbol, Timestamp, Uuid};
use serde_amqp::{Value, from_slice, to_vec};

fn kept_flow(flow: &Flow) -> kept::Flow {
    kept::Flow {
        next_incoming_id: flow.next_incoming_id,
        incoming_window: flow.incoming_window,
        next_outgoing_id: flow.next_outgoing_id,
        outgoing_window: flow.outgoing_window,
        handle: flow.handle.map(Into::into),
        delivery_count: flow.delivery_count,
        link_credit: flow.link_credit,
        available: flow.available,
        drain: flow.drain,
        echo: flow.echo,
        properties: None,
    }
}

fn limits() -> Limits {
    Limits::default()
}

/// A performative through our frame, decoded by us.
macro_rules! cold {
    ($kept:expr, $kind:ident) => {{
        let kept = $kept;
        let mut out = BytesMut::new();
        performative::encode(&mut out, frame::Kind::Amqp, 9, &kept, usize::MAX).expect("fits");
        let head = frame::head(&out, u32::MAX).expect("legal").expect("whole");
        prop_assert_eq!((head.size, head.channel), (out.len(), 9));
        prop_assert_eq!(&out[head.body..], &to_vec(&kept).expect("encodes")[..]);
        match performative::decode(&out[head.body..], &limits()).expect("decodes") {
            Performative::$kind(ours) => prop_assert_eq!(*ours, kept),
            other => prop_assert!(false, "{:?}", other),
        }
    }};
}

macro_rules! section {
    ($kept:expr, $type:ty, $kind:ident) => {{
        let kept: $type = $kept;
        let bytes = to_vec(&kept).expect("encodes");
        let limits = limits();
        let section = message::sections(&bytes, &limits)
            .next()
            .expect("one")
            .expect("legal");
        prop_assert_eq!((section.kind, section.whole), (Kind::$kind, &bytes[..]));
        prop_assert_eq!(section.decode::<$type>().expect("decodes"), kept);
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn transfer_both_ways(kept in transfer(), payload in vec(any::<u8>(), 0..50)) {
        let theirs = to_vec(&kept).expect("encodes");
        let with_payload = [&theirs[..], &payload[..]].concat();
        let limits = limits();
        let decoded = performative::decode(&with_payload, &limits).expect("decodes");
        let Performative::Transfer(ours, rest) = decoded else { panic!("no transfer") };
        prop_assert_eq!(rest, &payload[..]);
        prop_assert_eq!(ours.handle, kept.handle.0);
        prop_assert_eq!(ours.delivery_tag, kept.delivery_tag.as_ref().map(|t| t.as_ref()));
        let state = kept.state.as_ref().map(|s| to_vec(s).expect("encodes"));
        prop_assert_eq!(ours.state, state.as_deref());
        let mut out = BytesMut::new();
        ours.encode(&mut out);
        prop_assert_eq!(from_slice::<kept::Transfer>(&out).expect("theirs decodes"), kept);
    }

    #[test]
    fn flow_both_ways(ours in flow()) {
        let kept = kept_flow(&ours);
        let mut out = BytesMut::new();
        ours.encode(&mut out);
        prop_assert_eq!(from_slice::<kept::Flow>(&out).expect("theirs decodes"), kept.clone());
        let theirs = to_vec(&kept).expect("encodes");
        match performative::decode(&theirs, &limits()).expect("decodes") {
            Performative::Flow(again) => prop_assert_eq!(again, ours),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn disposition_both_ways(
        (receiver, first, last) in (any::<bool>(), number(), of(number())),
        (settled, state, batchable) in (any::<bool>(), of(state()), any::<bool>()),
    ) {
        let encoded = state.as_ref().map(|state| to_vec(state).expect("encodes"));
        let ours = Disposition {
            receiver, first, last, settled, state: encoded.as_deref(), batchable,
        };
        let kept = kept::Disposition {
            role: role(receiver), first, last, settled, state, batchable,
        };
        let mut out = BytesMut::new();
        ours.encode(&mut out);
        prop_assert_eq!(&from_slice::<kept::Disposition>(&out).expect("theirs decodes"), &kept);
        let theirs = to_vec(&kept).expect("encodes");
        match performative::decode(&theirs, &limits()).expect("decodes") {
            Performative::Disposition(again) => prop_assert_eq!(again, ours),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn open_begin_attach(open in open(), attach in attach(), numbers in any::<[u32; 4]>()) {
        cold!(open, Open);
        cold!(attach, Attach);
        let [next_outgoing_id, incoming_window, outgoing_window, handle] = numbers;
        cold!(kept::Begin {
            remote_channel: Some(handle as u16),
            next_outgoing_id, incoming_window, outgoing_window,
            handle_max: handle.into(),
            offered_capabilities: None, desired_capabilities: None, properties: None,
        }, Begin);
    }

    #[test]
    fn detach_end_close(error in of(error()), handle in any::<u32>(), closed in any::<bool>()) {
        cold!(kept::Detach { handle: handle.into(), closed, error: error.clone() }, Detach);
        cold!(kept::End { error: error.clone() }, End);
        cold!(kept::Close { error }, Close);
    }

    #[test]
    fn sections(
        (id, n) in (0..4, any::<u32>()),
        (text, value, pairs) in (text(), value(), fields()),
    ) {
        section!(Header { durable: n & 1 == 1, ttl: Some(n), ..Header::default() }, Header, Header);
        let message_id = match id {
            0 => MessageId::Ulong(n.into()),
            1 => MessageId::Uuid(Uuid::from([n as u8; 16])),
            2 => MessageId::Binary(Binary::from(vec![n as u8; 40])),
            _ => MessageId::String(text.clone()),
        };
        section!(Properties {
            message_id: Some(message_id),
            to: Some(text.clone()),
            absolute_expiry_time: Some(Timestamp::from(i64::from(n))),
            ..Properties::default()
        }, Properties, Properties);
        let simple = [
            (text.clone(), SimpleValue::String(text)),
            ("n".to_owned(), SimpleValue::Uint(n)),
        ];
        let simple = ApplicationProperties(simple.into_iter().collect());
        section!(simple, ApplicationProperties, ApplicationProperties);
        let annotations: fe2o3_amqp_types::messaging::Annotations = pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect();
        section!(MessageAnnotations(annotations.clone()), MessageAnnotations, MessageAnnotations);
        let delivery = DeliveryAnnotations(annotations.clone());
        section!(delivery, DeliveryAnnotations, DeliveryAnnotations);
        section!(Footer(annotations), Footer, Footer);
        section!(AmqpValue(value), AmqpValue<Value>, AmqpValue);
        let data = Data(Binary::from(vec![n as u8; (n % 600) as usize]));
        let bytes = to_vec(&data).expect("encodes");
        let limits = limits();
        let section = message::sections(&bytes, &limits).next().expect("one").expect("legal");
        prop_assert_eq!(section.data().expect("data"), &data.0[..]);
    }

    #[test]
    fn every_value_passes_the_check_and_no_cut_of_it_does(value in value()) {
        let bytes = to_vec(&value).expect("encodes");
        let mut input = &bytes[..];
        prop_assert_eq!(types::checked(&mut input, &limits()).expect("passes"), &bytes[..]);
        for cut in 0..bytes.len() {
            types::checked(&mut &bytes[..cut], &limits()).expect_err("cut off");
        }
    }

    #[test]
    fn whatever_passes_the_check_never_hurts_the_decoder(bytes in vec(any::<u8>(), 0..60)) {
        let mut input = &bytes[..];
        if let Ok(whole) = types::checked(&mut input, &limits()) {
            let _ = from_slice::<Value>(whole);
        }
    }
}

#[test]
fn sasl_frames_both_ways() {
    use crate::amqp::sasl::{self as ours, Frame};
    let init = sasl::SaslInit {
        mechanism: Symbol::from("PLAIN"),
        initial_response: Some(Binary::from(b"\0u\0p".to_vec())),
        hostname: Some("hub".to_owned()),
    };
    let decoded = ours::decode(&to_vec(&init).expect("encodes"), &limits());
    let Ok(Frame::Init(decoded)) = decoded else {
        panic!("no init");
    };
    assert_eq!(decoded.mechanism, init.mechanism);
    assert_eq!(decoded.initial_response, init.initial_response);
    let outcome = sasl::SaslOutcome {
        code: sasl::SaslCode::SysPerm,
        additional_data: None,
    };
    let decoded = ours::decode(&to_vec(&outcome).expect("encodes"), &limits());
    assert!(matches!(decoded, Ok(Frame::Outcome(o)) if o.code == sasl::SaslCode::SysPerm));
}

#[test]
fn descriptors_may_be_symbols() {
    let by_name = b"\x00\xa3\x10amqp:accepted:list\x45";
    let mut by_name = by_name.to_vec();
    by_name[2] = 18;
    let mut disposition = b"\x00\xa3\x15amqp:disposition:list\xc0".to_vec();
    let fields = [&b"\x41\x43\x43\x41"[..], &by_name].concat();
    disposition.extend([fields.len() as u8 + 1, 5]);
    disposition.extend(fields);
    let limits = limits();
    let decoded = performative::decode(&disposition, &limits).expect("legal");
    assert!(matches!(
        decoded,
        Performative::Disposition(d) if d.settled && d.state == Some(&by_name[..])
    ));
}

#[test]
fn strict_where_others_guess() {
    let limits = limits();
    let cases: [(&[u8], &str); 9] = [
        (b"\x00\x53\x13\x45", "a flow lacks a mandatory field"),
        (b"\x00\x53\x14\x45", "a transfer has no handle"),
        (b"\x00\x53\x14\xc0\x02\x01\x40", "a transfer has no handle"),
        (
            b"\x00\x53\x14\xc0\x03\x01\x43\x43",
            "a transfer is longer than its fields",
        ),
        (
            b"\x00\x53\x14\xc0\x02\x02\x43",
            "a value ends after the end of its container",
        ),
        (
            b"\x00\x53\x14\xc0\x02\x0c\x43",
            "a composite has more fields than its definition",
        ),
        (
            b"\x00\x53\x15\xc0\x04\x02\x56\x02\x43",
            "a boolean is neither 0 nor 1",
        ),
        (b"\x00\x53\x99\x45", "the performative is not known"),
        (
            b"\x00\x53\x17\x45\x00",
            "bytes follow a performative that has no payload",
        ),
    ];
    for (bytes, rule) in cases {
        let fault = performative::decode(bytes, &limits).expect_err(rule);
        assert_eq!(fault.what, rule);
        assert_eq!(fault.condition(), "amqp:decode-error");
    }
}

#[test]
fn sections_have_an_order() {
    let limits = limits();
    let header = b"\x00\x53\x70\x45";
    let data = b"\x00\x53\x75\xa0\x01x";
    let value = b"\x00\x53\x77\x40";
    let kinds = |bytes: &[u8]| -> Result<Vec<Kind>, Malformed> {
        message::sections(bytes, &limits)
            .map(|section| section.map(|section| section.kind))
            .collect()
    };
    let ok = [&header[..], data, data].concat();
    assert_eq!(kinds(&ok), Ok(vec![Kind::Header, Kind::Data, Kind::Data]));
    for wrong in [
        [&data[..], header],
        [header, header],
        [data, value],
        [value, value],
    ] {
        kinds(&wrong.concat()).expect_err("out of order");
    }
}
