//! Claims-based security: puts a token on `$cbs` of one connection (wire sheet §3).
//!
//! Own session, own link pair, one request at a time. A reply is matched by correlation-id, so a
//! late one cannot be taken for the next. Success is status-code 200 (202 is taken too). Receive
//! credit is given per request only: with credit 0 the keep-alive's drain request moves nothing
//! and makes any peer answer, which keeps our idle timer fed by peers that heartbeat too slowly
//! (fe2o3 F6).

use super::encode;
use super::live::now;
use crate::config::secret::Secret;
use fe2o3_amqp::link::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Value};
use fe2o3_amqp::{Receiver, Sender};
use zeroize::Zeroizing;

const NODE: &str = "$cbs";

/// Why a put failed.
#[derive(Debug, thiserror::Error)]
pub enum CbsError {
    /// The hub answered with another status.
    #[error("status {code} {text}")]
    Status {
        /// `status-code`
        code: i64,
        /// `status-description`, escaped and capped.
        text: String,
    },
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// A link or the session is gone.
    #[error("the $cbs link was lost")]
    Lost,
}

impl CbsError {
    /// `token_renewals_total{result}`
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Status { .. } => "rejected",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
        }
    }

    /// Whether the link pair must be built anew.
    pub const fn broken(&self) -> bool {
        !matches!(self, Self::Status { .. })
    }
}

/// An open `$cbs` link pair.
pub struct Cbs {
    /// Its own; `None` where the devices' is used too.
    session: Option<SessionHandle<()>>,
    sender: Sender,
    receiver: Receiver,
    id_prefix: String,
    puts: u64,
}

impl Cbs {
    /// Attaches the pair in a session of its own. Not to be cancelled: on a time-out kill the
    /// connection.
    pub async fn open(mut session: SessionHandle<()>) -> Result<Self, CbsError> {
        let mut cbs = Self::attach(&mut session).await?;
        cbs.session = Some(session);
        Ok(cbs)
    }

    /// Attaches the pair in somebody else's session; as [`Self::open`].
    pub async fn attach(session: &mut SessionHandle<()>) -> Result<Self, CbsError> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|_| CbsError::Lost)?;
        let id_prefix = encode::hex(&bytes);
        let sender = Sender::builder()
            .name(format!("cbs-out-{id_prefix}"))
            .source(NODE)
            .target(NODE)
            .verify_incoming_target(false)
            .attach(session)
            .await
            .map_err(|_| CbsError::Lost)?;
        let receiver = Receiver::builder()
            .name(format!("cbs-in-{id_prefix}"))
            .source(NODE)
            .target(NODE)
            .credit_mode(CreditMode::Manual)
            .verify_incoming_source(false)
            .attach(session)
            .await
            .map_err(|_| CbsError::Lost)?;
        Ok(Self {
            session: None,
            sender,
            receiver,
            id_prefix,
            puts: 0,
        })
    }

    /// Puts `token` for the audience `name` and waits for the answer. Dropping the future loses
    /// the answer, nothing else.
    pub async fn put(&mut self, name: &str, token: &Secret) -> Result<(), CbsError> {
        self.puts += 1;
        let id = format!("{}-{}", self.id_prefix, self.puts);
        let request = request(&id, name, token);
        self.grant().await?;
        // Not interrupted by the scheduler's budget half-way: a transfer is queued whole.
        let sent = tokio::task::unconstrained(self.sender.send_batchable(request)).await;
        let _outcome = sent.map_err(|_| CbsError::Lost)?;
        loop {
            let reply = self.receiver.recv::<Body<Value>>().await;
            let reply = reply.map_err(|_| CbsError::Lost)?;
            now(self.receiver.accept(&reply));
            let reply = reply.into_message();
            let correlation = reply
                .properties
                .as_ref()
                .and_then(|p| p.correlation_id.as_ref());
            if !matches!(correlation, Some(MessageId::String(text)) if *text == id) {
                self.grant().await?; // a late answer used the credit up
                continue;
            }
            return status(&reply);
        }
    }

    async fn grant(&mut self) -> Result<(), CbsError> {
        self.receiver
            .set_credit(1)
            .await
            .map_err(|_| CbsError::Lost)
    }

    /// Keep-alive: a Flow that asks for an answer.
    pub fn ping(&mut self) {
        now(self.receiver.set_credit(0));
        now(self.receiver.drain());
    }

    /// Closes both links and its own session. The caller sets the deadline.
    pub async fn close(self) {
        drop(self.sender.close().await);
        drop(self.receiver.close().await);
        if let Some(mut session) = self.session {
            drop(session.end().await);
        }
    }
}

fn request(id: &str, name: &str, token: &Secret) -> Message<AmqpValue<String>> {
    let mut properties = Properties::new();
    properties.message_id = Some(MessageId::String(id.to_owned()));
    properties.to = Some(NODE.to_owned());
    properties.reply_to = Some("cbs".to_owned());
    let mut application = OrderedMap::new();
    let pairs = [
        ("operation", "put-token"),
        ("type", "servicebus.windows.net:sastoken"),
        ("name", name),
    ];
    for (key, value) in pairs {
        application.insert(key.to_owned(), SimpleValue::String(value.to_owned()));
    }
    // The library takes the body by value and keeps it until the hub settles it; this copy is
    // the last one under our control.
    let text = Zeroizing::new(token.expose().to_vec());
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(properties),
        application_properties: Some(ApplicationProperties(application)),
        body: AmqpValue(String::from_utf8_lossy(&text).into_owned()),
        footer: None,
    }
}

fn status(reply: &Message<Body<Value>>) -> Result<(), CbsError> {
    let get = |key: &str| {
        reply
            .application_properties
            .as_ref()
            .and_then(|p| p.get(key))
    };
    let code = match get("status-code") {
        Some(SimpleValue::Int(code)) => i64::from(*code),
        // The service sends int (wire sheet §3.3); others are understood, not refused.
        Some(SimpleValue::Uint(code)) => i64::from(*code),
        Some(SimpleValue::Ushort(code)) => i64::from(*code),
        Some(SimpleValue::Long(code)) => *code,
        _ => 0,
    };
    if matches!(code, 200 | 202) {
        return Ok(());
    }
    let description = match get("status-description") {
        Some(SimpleValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let text = super::outcome::words(Some(&super::outcome::Cause {
        condition: String::new(),
        description,
    }));
    Err(CbsError::Status { code, text })
}

#[cfg(test)]
mod tests {
    use super::{CbsError, request, status};
    use crate::config::secret::Secret;
    use fe2o3_amqp::types::messaging::{ApplicationProperties, Body, Message};
    use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue};

    fn reply(code: SimpleValue) -> Message<Body<fe2o3_amqp::types::primitives::Value>> {
        let mut map = OrderedMap::new();
        map.insert("status-code".to_owned(), code);
        map.insert(
            "status-description".to_owned(),
            SimpleValue::String("bad\nnews".to_owned()),
        );
        Message {
            header: None,
            delivery_annotations: None,
            message_annotations: None,
            properties: None,
            application_properties: Some(ApplicationProperties(map)),
            body: Body::Empty,
            footer: None,
        }
    }

    #[test]
    fn success_is_200_or_202() {
        assert!(status(&reply(SimpleValue::Int(200))).is_ok());
        assert!(status(&reply(SimpleValue::Int(202))).is_ok());
    }

    #[test]
    fn any_other_status_is_reported_with_escaped_words() {
        match status(&reply(SimpleValue::Int(401))) {
            Err(CbsError::Status { code, text }) => {
                assert_eq!((code, text.as_str()), (401, "bad\\nnews"));
            }
            other => panic!("{other:?}"),
        }
        assert!(status(&reply(SimpleValue::Null)).is_err());
    }

    #[test]
    fn a_request_names_operation_type_and_audience() {
        let message = request("id-1", "h/devices", &Secret::from("token"));
        let application = message.application_properties.unwrap();
        let text = |key: &str| application.get(key).cloned();
        assert_eq!(
            text("operation"),
            Some(SimpleValue::String("put-token".into()))
        );
        assert_eq!(text("name"), Some(SimpleValue::String("h/devices".into())));
        assert_eq!(message.body.0, "token");
    }
}
