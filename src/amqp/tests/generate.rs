//! Generated values of AMQP types.

use crate::amqp::performative::Flow;
use fe2o3_amqp_types::definitions::{
    AmqpError, ConnectionError, Error, ErrorCondition, Fields, LinkError, ReceiverSettleMode, Role,
    SenderSettleMode, SessionError,
};
use fe2o3_amqp_types::messaging::{
    Accepted, DeliveryState, Modified, Received, Rejected, Released, Source, Target,
    TargetArchetype,
};
use fe2o3_amqp_types::performatives as kept;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_amqp::Value;
use serde_amqp::primitives::{Array, Binary, Symbol, Timestamp, Uuid};

pub fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z/$:.]{0,12}", "\\PC{0,40}", "[x]{250,270}"]
}

pub fn symbol() -> impl Strategy<Value = Symbol> {
    "[ -~]{0,20}".prop_map(Symbol::from)
}

pub fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u8>().prop_map(Value::Ubyte),
        any::<u16>().prop_map(Value::Ushort),
        any::<u32>().prop_map(Value::Uint),
        any::<u64>().prop_map(Value::Ulong),
        any::<i8>().prop_map(Value::Byte),
        any::<i16>().prop_map(Value::Short),
        any::<i32>().prop_map(Value::Int),
        any::<i64>().prop_map(Value::Long),
        any::<char>().prop_map(Value::Char),
        any::<i64>().prop_map(|t| Value::Timestamp(Timestamp::from(t))),
        any::<[u8; 16]>().prop_map(|u| Value::Uuid(Uuid::from(u))),
        vec(any::<u8>(), 0..300).prop_map(|b| Value::Binary(Binary::from(b))),
        text().prop_map(Value::String),
        symbol().prop_map(Value::Symbol),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::List),
            vec(any::<u32>().prop_map(Value::Uint), 1..4).prop_map(|a| Value::Array(Array(a))),
            vec((text(), inner), 0..3).prop_map(|pairs| {
                let pairs = pairs.into_iter().map(|(k, v)| (Value::String(k), v));
                Value::Map(pairs.collect())
            }),
        ]
    })
}

pub fn fields() -> impl Strategy<Value = Fields> {
    vec((symbol(), value()), 0..4).prop_map(|pairs| pairs.into_iter().collect())
}

pub fn condition() -> impl Strategy<Value = ErrorCondition> {
    prop_oneof![
        Just(AmqpError::DecodeError.into()),
        Just(ConnectionError::ConnectionForced.into()),
        Just(SessionError::WindowViolation.into()),
        Just(LinkError::Stolen.into()),
        "com\\.microsoft:[a-z-]{1,20}".prop_map(|s| ErrorCondition::Custom(Symbol::from(s))),
    ]
}

pub fn error() -> impl Strategy<Value = Error> {
    (condition(), of(text()), of(fields())).prop_map(|(c, d, i)| Error::new(c, d, i))
}

pub fn state() -> impl Strategy<Value = DeliveryState> {
    let modified = (of(any::<bool>()), of(any::<bool>()), of(fields()));
    prop_oneof![
        Just(DeliveryState::Accepted(Accepted {})),
        Just(DeliveryState::Released(Released {})),
        of(error()).prop_map(|error| DeliveryState::Rejected(Rejected { error })),
        modified.prop_map(
            |(delivery_failed, undeliverable_here, message_annotations)| {
                DeliveryState::Modified(Modified {
                    delivery_failed,
                    undeliverable_here,
                    message_annotations,
                })
            }
        ),
        (any::<u32>(), any::<u64>()).prop_map(|(section_number, section_offset)| {
            DeliveryState::Received(Received {
                section_number,
                section_offset,
            })
        }),
    ]
}

/// Zero, small and large alike.
pub fn number() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1_u32..300, any::<u32>()]
}

pub fn role(receiver: bool) -> Role {
    if receiver {
        Role::Receiver
    } else {
        Role::Sender
    }
}

prop_compose! {
    pub fn transfer()(
        (handle, delivery_id, tag) in (number(), of(number()), of(vec(any::<u8>(), 0..33))),
        (message_format, settled, more) in (of(number()), of(any::<bool>()), any::<bool>()),
        (second, state, resume) in (of(any::<bool>()), of(state()), any::<bool>()),
        (aborted, batchable) in (any::<bool>(), any::<bool>()),
    ) -> kept::Transfer {
        let second = second.map(|second| match second {
            true => ReceiverSettleMode::Second,
            false => ReceiverSettleMode::First,
        });
        kept::Transfer {
            handle: handle.into(),
            delivery_id,
            delivery_tag: tag.map(Into::into),
            message_format,
            settled,
            more,
            rcv_settle_mode: second,
            state,
            resume,
            aborted,
            batchable,
        }
    }
}

prop_compose! {
    pub fn flow()(
        (next_incoming_id, incoming_window) in (of(number()), number()),
        (next_outgoing_id, outgoing_window, handle) in (number(), number(), of(number())),
        (delivery_count, link_credit, available) in (of(number()), of(number()), of(number())),
        (drain, echo) in (any::<bool>(), any::<bool>()),
    ) -> Flow {
        Flow {
            next_incoming_id, incoming_window, next_outgoing_id, outgoing_window, handle,
            delivery_count, link_credit, available, drain, echo,
        }
    }
}

pub fn source() -> impl Strategy<Value = Source> {
    (of(text()), any::<u32>(), any::<bool>(), of(fields())).prop_map(
        |(address, timeout, dynamic, dynamic_node_properties)| Source {
            address,
            timeout,
            dynamic,
            dynamic_node_properties,
            ..Source::default()
        },
    )
}

prop_compose! {
    pub fn attach()(
        (name, handle, receiver) in (text(), number(), any::<bool>()),
        (snd, second) in (0..3, any::<bool>()),
        (source, address) in (of(source()), of(text())),
        (count, size) in (of(number()), of(any::<u64>())),
        (offered, properties) in (of(vec(symbol(), 1..3)), of(fields())),
    ) -> kept::Attach {
        let target = address.map(|address| {
            let address = Some(address);
            Box::new(TargetArchetype::Target(Target { address, ..Target::default() }))
        });
        kept::Attach {
            name,
            handle: handle.into(),
            role: role(receiver),
            snd_settle_mode: match snd {
                0 => SenderSettleMode::Unsettled,
                1 => SenderSettleMode::Settled,
                _ => SenderSettleMode::Mixed,
            },
            rcv_settle_mode: match second {
                true => ReceiverSettleMode::Second,
                false => ReceiverSettleMode::First,
            },
            source: source.map(Box::new),
            target,
            unsettled: None,
            incomplete_unsettled: false,
            initial_delivery_count: count,
            max_message_size: size,
            offered_capabilities: offered.map(Array),
            desired_capabilities: None,
            properties,
        }
    }
}

prop_compose! {
    pub fn open()(
        (container_id, hostname) in (text(), of(text())),
        (size, channels, idle) in (number(), any::<u16>(), of(number())),
        (locales, properties) in (of(vec(symbol(), 1..3)), of(fields())),
    ) -> kept::Open {
        kept::Open {
            container_id,
            hostname,
            max_frame_size: size.into(),
            channel_max: channels.into(),
            idle_time_out: idle,
            outgoing_locales: locales.map(Array),
            incoming_locales: None,
            offered_capabilities: None,
            desired_capabilities: None,
            properties,
        }
    }
}
