//! Message sections (3.2): cut out of a payload in place, each checked to the bottom before
//! serde_amqp builds anything of it; and written by hand, in the order of clause 3.2.

use super::Limits;
use super::types::{self, Malformed, Read, code};
use bytes::{BufMut, BytesMut};
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, DeliveryAnnotations, Footer, Header, MessageAnnotations, Properties,
};
use serde_amqp::serde::de::DeserializeOwned;

/// A section, by its descriptor (3.2.1–3.2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// 0x70
    Header,
    /// 0x71
    DeliveryAnnotations,
    /// 0x72
    MessageAnnotations,
    /// 0x73
    Properties,
    /// 0x74
    ApplicationProperties,
    /// 0x75
    Data,
    /// 0x76
    AmqpSequence,
    /// 0x77
    AmqpValue,
    /// 0x78
    Footer,
}

/// One section: what it is, its whole encoding, and the encoding after its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Which.
    pub kind: Kind,
    /// With descriptor.
    pub whole: &'a [u8],
    /// Without.
    pub value: &'a [u8],
}

/// The sections of a payload, in order. Stops after the first mistake.
#[derive(Clone, Debug)]
pub struct Sections<'a> {
    rest: &'a [u8],
    last: Option<Kind>,
    limits: &'a Limits,
}

/// The sections of `payload`.
#[must_use]
pub fn sections<'a>(payload: &'a [u8], limits: &'a Limits) -> Sections<'a> {
    Sections {
        rest: payload,
        last: None,
        limits,
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Read<Section<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let section = self.section();
        if section.is_err() {
            self.rest = &[];
        }
        Some(section)
    }
}

impl<'a> Sections<'a> {
    fn section(&mut self) -> Read<Section<'a>> {
        let whole = types::checked(&mut self.rest, self.limits)?;
        let mut value = whole;
        if types::u8(&mut value)? != code::DESCRIBED {
            return Err(Malformed("a message's section is not a described value"));
        }
        let kind = match types::descriptor(&mut value)? {
            0x70 => Kind::Header,
            0x71 => Kind::DeliveryAnnotations,
            0x72 => Kind::MessageAnnotations,
            0x73 => Kind::Properties,
            0x74 => Kind::ApplicationProperties,
            0x75 => Kind::Data,
            0x76 => Kind::AmqpSequence,
            0x77 => Kind::AmqpValue,
            0x78 => Kind::Footer,
            _ => return Err(Malformed("the message section is not known")),
        };
        let again = matches!(kind, Kind::Data | Kind::AmqpSequence) && self.last == Some(kind);
        let body = |kind: Option<Kind>| kind >= Some(Kind::Data) && kind < Some(Kind::Footer);
        let two_bodies = body(Some(kind)) && body(self.last);
        if !again && (two_bodies || self.last >= Some(kind)) {
            return Err(Malformed("message sections are out of order"));
        }
        self.last = Some(kind);
        Ok(Section { kind, whole, value })
    }
}

impl<'a> Section<'a> {
    /// The bytes of a data section (3.2.6).
    pub fn data(&self) -> Read<&'a [u8]> {
        let mut value = self.value;
        types::binary(&mut value)?.ok_or(Malformed("a data section is null"))
    }

    /// The section as its kept type.
    pub fn decode<T: DeserializeOwned>(&self) -> Read<T> {
        serde_amqp::from_slice(self.whole)
            .map_err(|_| Malformed("a section's value does not fit its definition"))
    }
}

/// What stands before and after a message's body, decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Envelope {
    /// 3.2.1
    pub header: Option<Header>,
    /// 3.2.2
    pub delivery_annotations: Option<DeliveryAnnotations>,
    /// 3.2.3
    pub message_annotations: Option<MessageAnnotations>,
    /// 3.2.4
    pub properties: Option<Properties>,
    /// 3.2.5
    pub application_properties: Option<ApplicationProperties>,
    /// 3.2.9
    pub footer: Option<Footer>,
}

/// Decodes everything but the body, whose sections come back as they are.
pub fn decode<'a>(payload: &'a [u8], limits: &'a Limits) -> Read<(Envelope, Vec<Section<'a>>)> {
    let mut envelope = Envelope::default();
    let mut body = Vec::new();
    for section in sections(payload, limits) {
        let section = section?;
        match section.kind {
            Kind::Header => envelope.header = Some(section.decode()?),
            Kind::DeliveryAnnotations => envelope.delivery_annotations = Some(section.decode()?),
            Kind::MessageAnnotations => envelope.message_annotations = Some(section.decode()?),
            Kind::Properties => envelope.properties = Some(section.decode()?),
            Kind::ApplicationProperties => {
                envelope.application_properties = Some(section.decode()?);
            }
            Kind::Footer => envelope.footer = Some(section.decode()?),
            Kind::Data | Kind::AmqpSequence | Kind::AmqpValue => body.push(section),
        }
        if body.len() > limits.values as usize {
            return Err(Malformed("more values than are allowed in one message"));
        }
    }
    Ok((envelope, body))
}

/// A value of the properties section, of annotations or of application properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Absent.
    Null,
    /// 1.6.20
    String(&'a str),
    /// 1.6.21; ASCII.
    Symbol(&'a str),
    /// 1.6.19
    Binary(&'a [u8]),
    /// 1.6.17, milliseconds since 1970-01-01 UTC.
    Timestamp(i64),
    /// 1.6.18
    Uuid([u8; 16]),
    /// 1.6.6
    Ulong(u64),
    /// 1.6.10
    Int(i32),
    /// 1.6.12
    Long(i64),
}

impl<'a> From<&'a str> for Field<'a> {
    fn from(text: &'a str) -> Self {
        Self::String(text)
    }
}

fn put_field(out: &mut BytesMut, field: Field<'_>) {
    match field {
        Field::Null => out.put_u8(code::NULL),
        Field::String(text) => types::put_string(out, text),
        Field::Symbol(text) => types::put_symbol(out, text),
        Field::Binary(bytes) => {
            types::put_variable(out, code::BINARY8, bytes.len());
            out.put_slice(bytes);
        }
        Field::Timestamp(millis) => {
            out.put_u8(code::TIMESTAMP);
            out.put_i64(millis);
        }
        Field::Uuid(bytes) => {
            out.put_u8(code::UUID);
            out.put_slice(&bytes);
        }
        Field::Ulong(n) => {
            out.put_u8(code::ULONG);
            out.put_u64(n);
        }
        Field::Int(n) => {
            out.put_u8(code::INT);
            out.put_i32(n);
        }
        Field::Long(n) => {
            out.put_u8(code::LONG);
            out.put_i64(n);
        }
    }
}

/// Appends a properties section (3.2.4): its fields in their order, trailing nulls left out.
pub fn put_properties(out: &mut BytesMut, fields: &[Field<'_>]) {
    let last = fields.iter().rposition(|field| *field != Field::Null);
    let fields = &fields[..last.map_or(0, |last| last + 1)];
    let count = u8::try_from(fields.len()).unwrap_or(u8::MAX);
    types::put_list(out, 0x73, true, count, |out| {
        for field in fields {
            put_field(out, *field);
        }
    });
}

/// Appends message annotations (3.2.3), whose keys are symbols; nothing when there are none. No
/// two pairs may have the same key (1.6.23).
pub fn put_annotations<'a, V: Into<Field<'a>>>(
    out: &mut BytesMut,
    pairs: impl ExactSizeIterator<Item = (&'a str, V)>,
) {
    put_map(out, 0x72, types::put_symbol, pairs);
}

/// Appends application properties (3.2.5); as [`put_annotations`].
pub fn put_application_properties<'a, V: Into<Field<'a>>>(
    out: &mut BytesMut,
    pairs: impl ExactSizeIterator<Item = (&'a str, V)>,
) {
    put_map(out, 0x74, types::put_string, pairs);
}

fn put_map<'a, V: Into<Field<'a>>>(
    out: &mut BytesMut,
    number: u8,
    put_key: impl Fn(&mut BytesMut, &str),
    pairs: impl ExactSizeIterator<Item = (&'a str, V)>,
) {
    let count = u32::try_from(pairs.len() * 2).unwrap_or(u32::MAX);
    if count == 0 {
        return;
    }
    out.put_slice(&[code::DESCRIBED, code::SMALL_ULONG, number, code::MAP32]);
    let at = out.len();
    out.put_u32(0);
    out.put_u32(count);
    for (key, value) in pairs {
        put_key(out, key);
        put_field(out, value.into());
    }
    let size = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends the head of a data section (3.2.6) of `length` bytes, which follow.
pub fn put_data_head(out: &mut BytesMut, length: usize) {
    out.put_slice(&[code::DESCRIBED, code::SMALL_ULONG, 0x75]);
    types::put_variable(out, code::BINARY8, length);
}

/// Appends the head of an amqp-value section (3.2.8) that is a string of `length` bytes, which
/// follow.
pub fn put_string_head(out: &mut BytesMut, length: usize) {
    out.put_slice(&[code::DESCRIBED, code::SMALL_ULONG, 0x77]);
    types::put_variable(out, code::STRING8, length);
}
