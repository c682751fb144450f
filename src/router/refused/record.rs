//! A refused message as a file: one line of JSON, then the payload as it came.

use crate::mqtt::packet::{MessageProperties, PacketId, Publish, QoS};
use crate::runtime::clock::Unix;
use crate::runtime::hex::hex;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::num::NonZeroU16;
use std::time::Duration;

/// The version of the form.
const FORMAT: u8 = 1;

/// A refused message: whose it is, why it was refused, and all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `device` or `device/module`, which had proved itself.
    pub client_id: String,
    /// The rule or entry that admitted it.
    pub rule: String,
    /// Why, as in `messages_total{result}`.
    pub reason: String,
    /// The same in words.
    pub text: String,
    /// When it was refused, to the millisecond.
    pub received: Unix,
    /// The message. Neither its packet id nor DUP is kept.
    pub publish: Publish,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u8,
    client_id: String,
    rule: String,
    reason: String,
    text: String,
    received: String,
    received_ms: u64,
    topic: String,
    qos: u8,
    retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties>,
    bytes: usize,
    sha256: String,
}

/// What MQTT 5 adds.
#[derive(Serialize, Deserialize)]
struct Properties {
    payload_utf8: Option<bool>,
    expiry_s: Option<u32>,
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data: Option<Vec<u8>>,
    user: Vec<(String, String)>,
}

/// SHA-256 of a payload in hex: what the log names a message by.
#[must_use]
pub fn digest(payload: &[u8]) -> String {
    hex(&Sha256::digest(payload))
}

impl Record {
    /// The line before the payload.
    pub(super) fn header(&self) -> Vec<u8> {
        let publish = &self.publish;
        let header = Header {
            format: FORMAT,
            client_id: self.client_id.clone(),
            rule: self.rule.clone(),
            reason: self.reason.clone(),
            text: self.text.clone(),
            received: self.received.to_string(),
            received_ms: self.received.as_millis(),
            topic: publish.topic.to_string(),
            qos: publish.qos as u8,
            retain: publish.retain,
            properties: publish.properties.as_deref().map(Properties::of),
            bytes: publish.payload.len(),
            sha256: digest(&publish.payload),
        };
        // Strings, numbers and lists of them cannot fail.
        let mut line = serde_json::to_vec(&header).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Reads a file.
    pub(super) fn parse(file: &[u8]) -> Result<Self, String> {
        let damaged = |what: &str| format!("is damaged: {what}");
        let end = file.iter().position(|byte| *byte == b'\n');
        let (line, payload) = file.split_at(end.ok_or_else(|| damaged("it has no first line"))?);
        let header: Header = serde_json::from_slice(line)
            .map_err(|_| damaged("its first line is not what this version writes"))?;
        if header.format != FORMAT {
            return Err(damaged("it is of another version"));
        }
        let payload = payload.get(1..).unwrap_or_default();
        if payload.len() != header.bytes || digest(payload) != header.sha256 {
            return Err(damaged("its payload is not the one that was kept"));
        }
        let qos = QoS::from_bits(header.qos).filter(|qos| *qos != QoS::ExactlyOnce);
        let qos = qos.ok_or_else(|| damaged("its QoS is not 0 or 1"))?;
        Ok(Self {
            client_id: header.client_id,
            rule: header.rule,
            reason: header.reason,
            text: header.text,
            received: Unix::from_secs(0) + Duration::from_millis(header.received_ms),
            publish: Publish {
                topic: header.topic.into(),
                payload: Bytes::copy_from_slice(payload),
                qos,
                retain: header.retain,
                dup: false,
                packet_id: (qos == QoS::AtLeastOnce).then_some(PacketId(NonZeroU16::MIN)),
                properties: header.properties.map(|own| Box::new(own.into())),
            },
        })
    }
}

impl Properties {
    fn of(properties: &MessageProperties) -> Self {
        let text = |text: &Option<bytestring::ByteString>| text.as_ref().map(ToString::to_string);
        let user = properties.user.iter();
        Self {
            payload_utf8: properties.payload_utf8,
            expiry_s: properties.expiry_s,
            content_type: text(&properties.content_type),
            response_topic: text(&properties.response_topic),
            correlation_data: properties.correlation_data.as_ref().map(|d| d.to_vec()),
            user: user.map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        }
    }
}

impl From<Properties> for MessageProperties {
    fn from(own: Properties) -> Self {
        let user = own.user.into_iter();
        Self {
            payload_utf8: own.payload_utf8,
            expiry_s: own.expiry_s,
            content_type: own.content_type.map(Into::into),
            response_topic: own.response_topic.map(Into::into),
            correlation_data: own.correlation_data.map(Into::into),
            user: user.map(|(k, v)| (k.into(), v.into())).collect(),
        }
    }
}
