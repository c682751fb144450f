//! A client of the emulator: tokens, links, and HTTP by hand.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::{ReceiverAttachError, SendError, SenderAttachError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::{Error, ErrorCondition};
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp::types::primitives::SimpleValue;
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use hmac::{Hmac, KeyInit, Mac};
use iothub_gateway::config::secret::Secret;
use iothub_gateway::emulator::config::{DeviceConfig, Keys, PolicyConfig};
use iothub_gateway::emulator::{Emulator, EmulatorConfig, EmulatorHandle};
use iothub_gateway::runtime::clock;
use serde_amqp::Value;
use serde_json::Value as Json;
use sha2::Sha256;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const HOST: &str = "myhub.azure-devices.net";
pub const POLICY_KEY: &[u8] = b"the policy's primary key";
pub const SECOND_KEY: &[u8] = b"the policy's secondary key";
pub const DEVICE_KEY: &[u8] = b"the key of thermo-1";

/// Nothing here takes longer unless it is broken.
pub const SOON: Duration = Duration::from_secs(10);

/// Fails the test instead of hanging.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen within {SOON:?}"),
    }
}

/// A hub with a policy, `thermo-1` with a key, and `plain-1` and `plain-2` without.
pub fn config() -> EmulatorConfig {
    let mut config = EmulatorConfig::loopback(HOST);
    config.policies.push(PolicyConfig::device_connect(
        "device",
        Secret::new(POLICY_KEY.to_vec()),
        Some(Secret::new(SECOND_KEY.to_vec())),
    ));
    let keys = Keys {
        primary: Some(Secret::new(DEVICE_KEY.to_vec())),
        secondary: None,
    };
    config.devices.push(DeviceConfig::new("thermo-1", keys));
    config
        .devices
        .push(DeviceConfig::new("plain-1", Keys::default()));
    config
        .devices
        .push(DeviceConfig::new("plain-2", Keys::default()));
    config
}

pub async fn start(change: impl FnOnce(&mut EmulatorConfig)) -> EmulatorHandle {
    let mut config = config();
    change(&mut config);
    Emulator::start(config).await.unwrap()
}

pub fn token(key: &[u8], scope: &str, lifetime: i64, policy: Option<&str>) -> String {
    let expiry = i64::try_from(clock::unix().as_secs()).unwrap() + lifetime;
    let sr = scope.replace('/', "%2F");
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(format!("{sr}\n{expiry}").as_bytes());
    let sig = STANDARD.encode(mac.finalize().into_bytes());
    let sig = sig
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let skn = policy
        .map(|name| format!("&skn={name}"))
        .unwrap_or_default();
    format!("SharedAccessSignature sr={sr}&sig={sig}&se={expiry}{skn}")
}

pub fn hub_token(lifetime: i64) -> String {
    token(
        POLICY_KEY,
        &format!("{HOST}/devices"),
        lifetime,
        Some("device"),
    )
}

pub struct Client {
    pub connection: ConnectionHandle<()>,
    pub session: SessionHandle<()>,
    cbs: Option<(Sender, Receiver)>,
    next_id: u64,
}

/// An answer of `$cbs`.
#[derive(Debug)]
pub struct CbsReply {
    pub correlation_id: Option<MessageId>,
    pub status: SimpleValue,
    pub description: String,
}

impl Client {
    /// Connects without SASL.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let opening = Connection::builder()
            .container_id("test")
            .open_with_stream(stream);
        Self::begin(soon("open", opening).await.unwrap()).await
    }

    /// Connects and puts a hub token that lives an hour.
    pub async fn authorised(hub: &EmulatorHandle) -> Self {
        let mut client = Self::connect(hub.amqp_addr().unwrap()).await;
        let reply = client.put(&hub_token(3600)).await;
        assert_eq!(reply.status, SimpleValue::Int(200), "{reply:?}");
        client
    }

    pub async fn begin(mut connection: ConnectionHandle<()>) -> Self {
        let session = soon("begin", Session::begin(&mut connection))
            .await
            .unwrap();
        Self {
            connection,
            session,
            cbs: None,
            next_id: 0,
        }
    }

    pub async fn put(&mut self, token: &str) -> CbsReply {
        self.next_id += 1;
        let id = MessageId::Ulong(self.next_id);
        self.put_as(token, id, "servicebus.windows.net:sastoken")
            .await
    }

    pub async fn put_as(&mut self, token: &str, id: MessageId, kind: &str) -> CbsReply {
        let request = Message::builder()
            .properties(Properties {
                message_id: Some(id),
                ..Properties::new()
            })
            .application_properties(
                ApplicationProperties::builder()
                    .insert("operation", "put-token".to_owned())
                    .insert("type", kind.to_owned())
                    .insert("name", format!("{HOST}/devices"))
                    .build(),
            )
            .value(Value::String(token.to_owned()))
            .build();
        if self.cbs.is_none() {
            let sender = Sender::attach(&mut self.session, "cbs-out", "$cbs");
            let sender = soon("attach $cbs", sender).await.unwrap();
            let receiver = Receiver::attach(&mut self.session, "cbs-in", "$cbs");
            let receiver = soon("attach $cbs", receiver).await.unwrap();
            self.cbs = Some((sender, receiver));
        }
        let (sender, receiver) = self.cbs.as_mut().unwrap();
        let outcome = soon("put", sender.send(request)).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)));
        let reply = soon("reply", receiver.recv::<Body<Value>>()).await.unwrap();
        receiver.accept(&reply).await.unwrap();
        let (_, message) = reply.into_parts();
        assert_eq!(message.body, Body::Empty, "the reply has no body section");
        let verdict = message.application_properties.unwrap().0;
        CbsReply {
            correlation_id: message.properties.unwrap().correlation_id,
            status: verdict.get("status-code").unwrap().clone(),
            description: match verdict.get("status-description").unwrap() {
                SimpleValue::String(text) => text.clone(),
                other => panic!("{other:?}"),
            },
        }
    }

    pub async fn sender(&mut self, name: &str, address: &str) -> Result<Sender, SenderAttachError> {
        let attached = soon("attach", Sender::attach(&mut self.session, name, address)).await;
        settle_refusal(attached.is_err()).await;
        attached
    }

    pub async fn events(&mut self, device: &str) -> Result<Sender, SenderAttachError> {
        let address = format!("/devices/{device}/messages/events");
        self.sender(&format!("d2c-{device}"), &address).await
    }

    pub async fn commands(&mut self, device: &str) -> Result<Receiver, ReceiverAttachError> {
        let address = format!("/devices/{device}/messages/devicebound");
        let attaching = Receiver::attach(&mut self.session, format!("c2d-{device}"), address);
        let attached = soon("attach", attaching).await;
        settle_refusal(attached.is_err()).await;
        attached
    }
}

/// After a refusal the client library still has a detach of its own queued for the handle; an
/// attach at once gets the same handle and is undone by it. Its session task needs a turn.
pub async fn settle_refusal(refused: bool) {
    for _ in 0..if refused { 100 } else { 0 } {
        tokio::task::yield_now().await;
    }
}

pub fn data(bytes: &[u8]) -> Message<Data> {
    Message::builder().data(bytes).build()
}

pub async fn send(sender: &mut Sender, bytes: &[u8]) -> Result<Outcome, SendError> {
    soon("an outcome", sender.send(data(bytes))).await
}

pub fn condition(error: &Error) -> String {
    let encoded: String = match &error.condition {
        ErrorCondition::Custom(symbol) => symbol.0.clone(),
        other => match Value::try_from_serializable(other).unwrap() {
            Value::Symbol(symbol) => symbol.0,
            other => panic!("{other:?}"),
        },
    };
    encoded
}

/// Condition and description an attach was refused with.
pub fn refusal(result: Result<Sender, SenderAttachError>) -> (String, String) {
    match result {
        Err(SenderAttachError::RemoteClosedWithError(error)) => {
            (condition(&error), error.description.unwrap_or_default())
        }
        other => panic!("not refused with an error: {other:?}"),
    }
}

/// Condition and description a sender is detached with.
pub async fn detached(sender: &mut Sender) -> (String, String) {
    use fe2o3_amqp::link::DetachError;
    match soon("a detach", sender.on_detach()).await {
        DetachError::RemoteClosedWithError(error) => {
            (condition(&error), error.description.unwrap_or_default())
        }
        other => panic!("not detached with an error: {other:?}"),
    }
}

/// One request of the control API; status and JSON.
pub async fn http(hub: &EmulatorHandle, method: &str, path: &str, body: &[u8]) -> (u16, Json) {
    http_with(
        hub,
        method,
        path,
        "content-type: application/json\r\n",
        body,
    )
    .await
}

pub async fn http_with(
    hub: &EmulatorHandle,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (u16, Json) {
    let address = hub.control_addr().unwrap();
    let (status, _, json) = http_at(address, method, path, headers, body).await;
    (status, json)
}

/// One request to an address: status, head and JSON.
pub async fn http_at(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (u16, String, Json) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let host = if headers.contains("host:") {
            ""
        } else {
            "host: localhost\r\n"
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}connection: close\r\n{headers}\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let answer = soon("an HTTP answer", exchange).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        head.to_owned(),
        serde_json::from_str(body).unwrap_or(Json::String(body.to_owned())),
    )
}
