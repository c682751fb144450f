//! AMQP errors in the service's words (wire sheet §6), with the tracking id it adds.

use crate::emulator::config::DisabledDevice;
use crate::runtime::clock::{self, Unix};
use fe2o3_amqp::types::definitions::{
    AmqpError, ConnectionError, Error, ErrorCondition, Fields, LinkError,
};
use serde_amqp::Value;
use serde_amqp::primitives::Symbol;
use std::fmt::Write;

/// `N` random bytes. They identify, they do not protect, so a failing source yields zeros.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        tracing::warn!(
            name: "random_failed",
            target: "emulator",
            "the system's random source failed, ids repeat"
        );
    }
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// ISO 8601 in UTC with milliseconds.
pub(crate) fn iso8601(at: Unix) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(0);
    let t = time::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, millis) = (t.date(), at.as_millis() % 1000);
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second) = (t.hour(), t.minute(), t.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

fn error(condition: impl Into<ErrorCondition>, description: String) -> Error {
    let mut info = Fields::new();
    info.insert(
        Symbol::from("com.microsoft:tracking-id"),
        Value::String(format!("{}-G:0", hex(&random::<16>()))),
    );
    Error::new(condition, description, info)
}

/// The service's JSON of an error with a numeric code (wire sheet §6.1).
pub(crate) fn json(code: u32, message: &str) -> String {
    let description = serde_json::json!({
        "errorCode": code,
        "trackingId": format!("{}-G:0", hex(&random::<16>())),
        "message": message,
        "timestampUtc": iso8601(clock::unix()),
    });
    description.to_string()
}

/// `ExceptionMessage` of a REST answer.
pub(crate) fn tracking() -> String {
    let (id, now) = (hex(&random::<16>()), iso8601(clock::unix()));
    format!("Tracking ID:{id}-G:0-TimeStamp:{now}")
}

/// An error whose description is that JSON.
fn coded(condition: impl Into<ErrorCondition>, code: u32, message: &str) -> Error {
    error(condition, json(code, message))
}

fn custom(condition: &'static str) -> ErrorCondition {
    ErrorCondition::Custom(Symbol::from(condition))
}

pub(crate) fn unauthorized() -> Error {
    coded(AmqpError::UnauthorizedAccess, 401_002, "Unauthorized")
}

/// A token ended and the link had no other (wire sheet §6.3).
pub(crate) fn token_invalid() -> Error {
    error(AmqpError::UnauthorizedAccess, "Token Invalid.".to_owned())
}

pub(crate) fn device_not_found(device: &str) -> Error {
    coded(
        AmqpError::NotFound,
        404_001,
        &format!("Device {device} not registered"),
    )
}

pub(crate) fn module_not_found(device: &str, module: &str) -> Error {
    let text = format!("Module {module} of device {device} not registered");
    coded(AmqpError::NotFound, 404_010, &text)
}

pub(crate) fn device_disabled(device: &str, style: DisabledDevice) -> Error {
    match style {
        DisabledDevice::NotFound => coded(
            AmqpError::NotFound,
            404_001,
            &format!("Device {device} is disabled"),
        ),
        DisabledDevice::Unauthorized => coded(
            AmqpError::UnauthorizedAccess,
            403_012,
            &format!("Device {device} is disabled"),
        ),
    }
}

pub(crate) fn unknown_address() -> Error {
    let text = "The link address did not match any of the expected formats";
    error(AmqpError::NotFound, text.to_owned())
}

pub(crate) fn not_implemented(what: &str) -> Error {
    error(
        AmqpError::NotImplemented,
        format!("The emulator does not serve {what}."),
    )
}

pub(crate) fn not_allowed(text: &str) -> Error {
    error(AmqpError::NotAllowed, text.to_owned())
}

pub(crate) fn bad_field(text: &str) -> Error {
    error(AmqpError::InvalidField, text.to_owned())
}

/// A channel correlation id that is in use, or was refused before (wire sheet §4.2).
pub(crate) fn link_conflict() -> Error {
    coded(
        custom("com.microsoft:link-creation-conflict"),
        409_002,
        "The channel correlation id was used before, take a fresh one for every attempt.",
    )
}

/// The numeric code that goes with a twin status a fault injects.
pub(crate) const fn twin_code(status: i32) -> u32 {
    match status {
        400 => 400_004,
        429 => 429_001,
        503 => 503_001,
        _ => 500_001,
    }
}

/// Where events are read (wire sheet §9.2).
pub(crate) fn redirect(host: &str, port: u16, hub: &str) -> Error {
    let mut info = Fields::new();
    let text = |text: String| Value::String(text);
    let address = format!("amqps://{host}:{port}/{hub}/");
    for (key, value) in [
        ("hostname", text(host.to_owned())),
        ("network-host", text(host.to_owned())),
        ("port", Value::Int(i32::from(port))),
        ("address", text(address)),
    ] {
        info.insert(Symbol::from(key), value);
    }
    Error::new(LinkError::Redirect, None, info)
}

/// A command for a device whose queue is full (wire sheet §5).
pub(crate) fn queue_full() -> Error {
    coded(
        AmqpError::ResourceLimitExceeded,
        403_004,
        "The device's command queue is full",
    )
}

/// A command whose life has ended before it began.
pub(crate) fn expired() -> Error {
    let text = "The absolute-expiry-time has passed";
    coded(AmqpError::InvalidField, 403_009, text)
}

pub(crate) fn undecodable() -> Error {
    error(
        AmqpError::DecodeError,
        "The message is no AMQP message.".to_owned(),
    )
}

/// Wire text of azure-iot-sdk-c#2233.
pub(crate) fn message_too_large(size: usize, max: usize) -> Error {
    let mut error = error(
        LinkError::MessageSizeExceeded,
        format!(
            "Message size is {size} bytes which is greater than the max size {max} bytes allowed."
        ),
    );
    if let Some(info) = &mut error.info {
        info.insert(Symbol::from("com.microsoft:is-filtered"), Value::Bool(true));
    }
    error
}

pub(crate) fn attach_throttled() -> Error {
    error(
        LinkError::DetachForced,
        "Server Busy. Please retry operation".to_owned(),
    )
}

pub(crate) fn send_throttled() -> Error {
    coded(
        custom("com.microsoft:device-container-throttled"),
        429_001,
        "Throttling",
    )
}

/// The ledger is full: accepting now would acknowledge what nobody can check.
pub(crate) fn ledger_full() -> Error {
    coded(
        AmqpError::ResourceLimitExceeded,
        403_002,
        "The emulator's ledger is full; raise ledger_entries_max or DELETE /messages",
    )
}

pub(crate) fn too_many(what: &str) -> Error {
    error(
        AmqpError::ResourceLimitExceeded,
        format!("The limit of {what} is reached."),
    )
}

pub(crate) fn second_receiver() -> Error {
    let text = "Another AMQP Client has opened a Receive Link";
    error(AmqpError::InternalError, text.to_owned())
}

/// A pair of method or twin links that another one took the place of.
pub(crate) fn second_pair() -> Error {
    let text = "Another AMQP Client has opened the links";
    error(AmqpError::InternalError, text.to_owned())
}

pub(crate) fn stolen() -> Error {
    error(
        LinkError::Stolen,
        "Another AMQP Client has opened a Receive Link".to_owned(),
    )
}

pub(crate) fn idle_timeout_too_short(min_ms: u128) -> Error {
    not_allowed(&format!("The idle-time-out must be at least {min_ms} ms."))
}

pub(crate) fn connection_forced(text: &str) -> Error {
    error(ConnectionError::ConnectionForced, text.to_owned())
}

/// What a fault of the catalogue says, by its condition.
pub(crate) fn injected(condition: &'static str) -> Error {
    error(custom(condition), "Fault injected.".to_owned())
}

/// The daily quota is used up (wire sheet §6.4).
pub(crate) fn quota_exceeded() -> Error {
    coded(
        AmqpError::ResourceLimitExceeded,
        403_002,
        "Total number of messages on IotHub exceeded the allocated quota.",
    )
}

pub(crate) fn killed(what: &str) -> Error {
    error(LinkError::DetachForced, format!("Fault injected: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_iso_8601() {
        assert_eq!(
            iso8601(Unix::from_secs(1_893_456_000)),
            "2030-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn coded_descriptions_are_json() {
        let error = device_not_found("a\"b");
        let json: serde_json::Value =
            serde_json::from_str(error.description.as_deref().unwrap()).unwrap();
        assert_eq!(json["errorCode"], 404_001);
    }
}
