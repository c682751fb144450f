//! Claims-based security: puts a token on `$cbs` of one connection (wire sheet §3).
//!
//! Own link pair, one request at a time. A reply is matched by correlation-id, so a late one
//! cannot be taken for the next. Success is status-code 200 (202 is taken too).

use super::driver::{Handle, Link, LinkEvent, Session};
use super::outcome;
use crate::amqp::message::{self, Field};
use crate::amqp::{self, Limits, Message, Outcome, SendError};
use crate::config::secret::Secret;
use crate::runtime::hex::hex;
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::messaging::{ApplicationProperties, MessageId};
use fe2o3_amqp_types::primitives::SimpleValue;
use std::sync::Arc;
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

/// Where the link pair is attached.
#[derive(Clone)]
pub enum Home {
    /// In a session of its own on this connection, so that nothing disturbs a device's link.
    Own(Handle),
    /// In the session that the devices use too: the hub allows no other.
    Shared(Arc<Session>),
}

/// An open `$cbs` link pair.
pub struct Cbs {
    /// Whether it ends with the pair.
    own: bool,
    session: Arc<Session>,
    requests: Link,
    replies: Link,
    id_prefix: String,
    puts: u64,
}

impl Cbs {
    /// Attaches the pair. Dropping the future detaches what was attached.
    pub async fn open(home: Home) -> Result<Self, CbsError> {
        let mut bytes = [0; 8];
        crate::runtime::random::fill(&mut bytes).map_err(|_| CbsError::Lost)?;
        let (own, session) = match home {
            Home::Own(handle) => {
                let session = handle.begin().map_err(|_| CbsError::Lost)?;
                (true, Arc::new(session))
            }
            Home::Shared(session) => (false, session),
        };
        if !session.mapped().await {
            return Err(CbsError::Lost);
        }
        let mut to = amqp::sender("cbs-out", NODE);
        let mut from = amqp::receiver("cbs-in", NODE);
        // Both termini are named on both links, as the SDKs do.
        to.source = amqp::receiver("", NODE).source;
        from.target = amqp::sender("", NODE).target;
        let attach = |attach| session.attach(attach, 0).map_err(|_| CbsError::Lost);
        let (mut requests, mut replies) = (attach(to)?, attach(from)?);
        attached(&mut requests).await?;
        attached(&mut replies).await?;
        Ok(Self {
            own,
            session,
            requests,
            replies,
            id_prefix: hex(&bytes),
            puts: 0,
        })
    }

    /// Puts `token` for the audience `name` and waits for the answer. Dropping the future loses
    /// the answer, nothing else.
    pub async fn put(&mut self, name: &str, token: &Secret) -> Result<(), CbsError> {
        self.puts += 1;
        let id = format!("{}-{}", self.id_prefix, self.puts);
        self.grant()?;
        self.send(&request(&id, name, token.expose().len()), token)
            .await?;
        loop {
            let payload = match self.replies.next().await {
                LinkEvent::Delivery {
                    delivery,
                    payload,
                    settled,
                } => {
                    if !settled {
                        let accepted = self.replies.settle(delivery, &Outcome::Accepted);
                        accepted.map_err(|_| CbsError::Lost)?;
                    }
                    payload
                }
                LinkEvent::Refused(_) | LinkEvent::Detached(_) | LinkEvent::Stopped => {
                    return Err(CbsError::Lost);
                }
                _ => continue,
            };
            match answer(&payload, &id) {
                Some(answer) => return answer,
                None => self.grant()?, // a late answer used the credit up
            }
        }
    }

    /// Room for one reply.
    fn grant(&mut self) -> Result<(), CbsError> {
        self.replies.set_credit(1).map_err(|_| CbsError::Lost)
    }

    /// Sends the request as soon as the hub takes it. How it settles it is of no interest: the
    /// reply says more.
    async fn send(&mut self, head: &[u8], token: &Secret) -> Result<(), CbsError> {
        // Wiped when the engine has let it go.
        let body = Bytes::from_owner(Zeroizing::new(token.expose().to_vec()));
        let message = Message {
            head,
            body,
            settled: false,
            token: self.puts,
        };
        loop {
            match self.requests.send(&message) {
                Ok(_) => return Ok(()),
                Err(SendError::WouldBlock) => {}
                Err(_) => return Err(CbsError::Lost),
            }
            loop {
                match self.requests.next().await {
                    LinkEvent::Credit(_) => break,
                    LinkEvent::Detached(_) | LinkEvent::Stopped => return Err(CbsError::Lost),
                    _ => {}
                }
            }
        }
    }

    /// Closes both links and its own session, and waits for the answers. The caller sets the
    /// deadline.
    pub async fn close(mut self) {
        for link in [&mut self.requests, &mut self.replies] {
            link.detach(None);
        }
        for link in [&mut self.requests, &mut self.replies] {
            while !matches!(
                link.next().await,
                LinkEvent::Detached(_) | LinkEvent::Stopped
            ) {}
        }
        if self.own {
            self.session.end();
            self.session.ended().await;
        }
    }
}

async fn attached(link: &mut Link) -> Result<(), CbsError> {
    match link.next().await {
        LinkEvent::Attached(_) => Ok(()),
        _ => Err(CbsError::Lost),
    }
}

/// A request up to its body, which is a token of `length` bytes.
fn request(id: &str, name: &str, length: usize) -> BytesMut {
    let mut out = BytesMut::new();
    let [message_id, to, reply_to] = [id, NODE, "cbs"].map(Field::String);
    let none = Field::Null;
    message::put_properties(&mut out, &[message_id, none, to, none, reply_to]);
    let pairs = [
        ("operation", "put-token"),
        ("type", "servicebus.windows.net:sastoken"),
        ("name", name),
    ];
    message::put_application_properties(&mut out, pairs.into_iter());
    message::put_string_head(&mut out, length);
    out
}

/// What a reply says, if it is the one to the request of this id.
fn answer(payload: &[u8], id: &str) -> Option<Result<(), CbsError>> {
    let limits = Limits::default();
    let (reply, _body) = message::decode(payload, &limits).ok()?;
    match reply.properties?.correlation_id? {
        MessageId::String(text) if text == id => {}
        _ => return None,
    }
    Some(status(reply.application_properties.as_ref()))
}

fn status(properties: Option<&ApplicationProperties>) -> Result<(), CbsError> {
    let get = |key: &str| properties.and_then(|properties| properties.get(key));
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
    let text = outcome::words(Some(&outcome::Cause {
        condition: String::new(),
        description,
    }));
    Err(CbsError::Status { code, text })
}

#[cfg(test)]
mod tests {
    use super::{CbsError, answer, request};
    use crate::amqp::Limits;
    use crate::amqp::message::{Kind, decode};
    use fe2o3_amqp_types::messaging::{
        AmqpValue, ApplicationProperties, Data, MessageId, Properties,
    };
    use fe2o3_amqp_types::primitives::{OrderedMap, SimpleValue};
    use serde_amqp::to_vec;

    fn reply(id: &str, code: SimpleValue) -> Vec<u8> {
        let mut properties = Properties::new();
        properties.correlation_id = Some(MessageId::String(id.to_owned()));
        let mut map = OrderedMap::new();
        map.insert("status-code".to_owned(), code);
        map.insert(
            "status-description".to_owned(),
            SimpleValue::String("bad\nnews".to_owned()),
        );
        let mut bytes = to_vec(&properties).unwrap();
        bytes.extend(to_vec(&ApplicationProperties(map)).unwrap());
        bytes.extend(to_vec(&Data(Vec::new().into())).unwrap());
        bytes
    }

    #[test]
    fn success_is_200_or_202() {
        for code in [SimpleValue::Int(200), SimpleValue::Int(202)] {
            assert!(matches!(answer(&reply("1", code), "1"), Some(Ok(()))));
        }
    }

    #[test]
    fn any_other_status_is_reported_with_escaped_words() {
        match answer(&reply("1", SimpleValue::Int(401)), "1") {
            Some(Err(CbsError::Status { code, text })) => {
                assert_eq!((code, text.as_str()), (401, "bad\\nnews"));
            }
            other => panic!("{other:?}"),
        }
        let none = answer(&reply("1", SimpleValue::Null), "1");
        assert!(matches!(none, Some(Err(_))));
    }

    #[test]
    fn a_late_reply_is_not_taken_for_the_next_one() {
        assert!(answer(&reply("1", SimpleValue::Int(401)), "2").is_none());
        assert!(answer(b"nonsense", "2").is_none());
    }

    #[test]
    fn a_request_names_operation_type_and_audience() {
        let mut bytes = request("id-1", "h/devices", 5);
        bytes.extend_from_slice(b"token");
        let limits = Limits::default();
        let (message, body) = decode(&bytes, &limits).unwrap();
        let properties = message.properties.unwrap();
        assert_eq!(
            properties.message_id,
            Some(MessageId::String("id-1".into()))
        );
        assert_eq!(properties.to.as_deref(), Some("$cbs"));
        assert_eq!(properties.reply_to.as_deref(), Some("cbs"));
        let application = message.application_properties.unwrap();
        let text = |key: &str| application.get(key).cloned();
        assert_eq!(
            text("operation"),
            Some(SimpleValue::String("put-token".into()))
        );
        assert_eq!(text("name"), Some(SimpleValue::String("h/devices".into())));
        assert_eq!(body[0].kind, Kind::AmqpValue);
        let token: AmqpValue<String> = body[0].decode().unwrap();
        assert_eq!(token.0, "token");
    }
}
