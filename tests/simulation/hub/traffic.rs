//! Tokens, messages and commands of the model hub.

use super::{Peer, Use, error};
use bytes::Bytes;
use fe2o3_amqp_types::messaging::{ApplicationProperties, MessageId, Properties};
use fe2o3_amqp_types::primitives::{OrderedMap, SimpleValue};
use iothub_gateway::amqp::message::{Kind, Section, decode};
use iothub_gateway::amqp::{DeliveryId, Limits, LinkId, Message, Outcome};
use iothub_gateway::runtime::clock;
use std::sync::Arc;
use std::time::Duration;

impl Peer {
    pub(super) fn delivery(&mut self, token: u64, delivery: DeliveryId, payload: &Bytes) {
        let limits = Limits::default();
        let Ok((envelope, body)) = decode(payload, &limits) else {
            self.ledger
                .lock()
                .expect("whole")
                .wrong("a message that is none");
            return;
        };
        let Some((link, of)) = self.links.get(&token).copied() else {
            return;
        };
        // What was used is given again.
        let _ = self.engine.set_credit(link, self.bounds.credit);
        match of {
            Use::Tokens => {
                let properties = envelope.properties.unwrap_or_default();
                let text = body
                    .first()
                    .and_then(|section| section.decode::<String>().ok());
                let _ = self.engine.settle(delivery, &Outcome::Accepted);
                self.put_token(properties, text.unwrap_or_default(), body.first());
            }
            Use::Telemetry(device) => {
                let data = body.iter().find(|section| section.kind == Kind::Data);
                let bytes = data
                    .and_then(|section| section.data().ok())
                    .unwrap_or_default();
                let text = String::from_utf8_lossy(bytes).into_owned();
                let number = self.ledger.lock().expect("whole").arrived(device, &text);
                let Some(number) = number else { return };
                let after = Duration::from_millis(self.chance.range(0, 20));
                let at = clock::mono() + after;
                let at = self.due.back().map_or(at, |(last, ..)| at.max(*last));
                self.due.push_back((at, delivery, device, number));
            }
            Use::Answers | Use::Commands(_) => {
                self.ledger
                    .lock()
                    .expect("whole")
                    .wrong("a message on the hub's own link");
            }
        }
    }

    /// Outcomes whose time has come.
    pub(super) fn decide(&mut self) {
        let now = clock::mono();
        while let Some((at, delivery, device, number)) = self.due.front().copied() {
            let mut ledger = self.ledger.lock().expect("whole");
            if at > now || ledger.mood.hold {
                break;
            }
            self.due.pop_front();
            let poison = crate::device::is_poison(number);
            let outcome = if poison {
                let large = error("amqp:link:message-size-exceeded", "too large");
                Outcome::Rejected(Some(Box::new(large)))
            } else if ledger.mood.throttle {
                let busy = error("com.microsoft:device-container-throttled", "slow down");
                Outcome::Rejected(Some(Box::new(busy)))
            } else if ledger.mood.release && self.chance.happens(333) {
                Outcome::Released
            } else {
                Outcome::Accepted
            };
            if self.engine.settle(delivery, &outcome).is_ok() {
                ledger.note(|| format!("{now:?} hub: {device}:{number} {outcome:?}"));
                match outcome {
                    Outcome::Accepted => ledger.accept(device, number),
                    Outcome::Rejected(_) if poison => {
                        ledger.device(device).rejected.insert(number);
                    }
                    _ => {}
                }
            }
        }
    }

    fn put_token(&mut self, properties: Properties, _text: String, body: Option<&Section<'_>>) {
        let mut ledger = self.ledger.lock().expect("whole");
        ledger.tokens += 1;
        if ledger.mood.mute_tokens {
            return;
        }
        let refused = ledger.mood.refuse_tokens;
        drop(ledger);
        let raw = body.map(|section| String::from_utf8_lossy(section.value).into_owned());
        let raw = raw.unwrap_or_default();
        let ends = raw.split("&se=").nth(1).and_then(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        });
        let good = ends.filter(|ends| !refused && *ends > (self.wall)());
        if let Some(ends) = good {
            self.token_until = Some(ends);
        }
        let status = if good.is_some() { 200 } else { 401 };
        let (now, wall) = (clock::mono(), (self.wall)());
        let mut ledger = self.ledger.lock().expect("whole");
        ledger.note(|| format!("{now:?} hub: token until {ends:?} at {wall}: {status}"));
        drop(ledger);
        let answer = Properties {
            correlation_id: properties.message_id,
            ..Properties::default()
        };
        let mut map = OrderedMap::new();
        map.insert("status-code".to_owned(), SimpleValue::Int(status));
        let mut head = serde_amqp::to_vec(&answer).expect("a section");
        head.extend(serde_amqp::to_vec(&ApplicationProperties(map)).expect("a section"));
        head.extend([0x00, 0x53, 0x77, 0x40]);
        let answers = |(_, of): &&(LinkId, Use)| *of == Use::Answers;
        let link = self.links.values().rfind(answers).map(|(link, _)| *link);
        if let Some(link) = link {
            let message = Message {
                head: &head,
                ..Message::default()
            };
            let _ = self.engine.send(link, &message);
        }
    }

    /// Sends what the link's credit allows.
    pub(super) fn commands(&mut self, device: usize) {
        let of = |(_, (_, of)): &(&u64, &(LinkId, Use))| *of == Use::Commands(device);
        let Some((token, (link, _))) = self.links.iter().rfind(of) else {
            return;
        };
        let (token, link) = (*token, *link);
        let ledger = Arc::clone(&self.ledger);
        let mut ledger = ledger.lock().expect("whole");
        while let Some(command) = ledger.device(device).queue.front().copied() {
            let id = Properties {
                message_id: Some(MessageId::String(command.to_string())),
                ..Properties::default()
            };
            let body = format!("{}:{command}", crate::device::name(device));
            let mut head = serde_amqp::to_vec(&id).expect("a section");
            head.extend([0x00, 0x53, 0x75, 0xa0, body.len() as u8]);
            let message = Message {
                head: &head,
                body: Bytes::from(body),
                settled: false,
                token: command,
            };
            if self.engine.send(link, &message).is_err() {
                break;
            }
            ledger.device(device).queue.pop_front();
            self.sent.entry(token).or_default().push(command);
        }
    }

    pub(super) fn outcome(&mut self, token: u64, command: u64, outcome: &Outcome) {
        let Some((_, Use::Commands(device))) = self.links.get(&token).copied() else {
            return;
        };
        if let Some(sent) = self.sent.get_mut(&token) {
            sent.retain(|known| *known != command);
        }
        let mut ledger = self.ledger.lock().expect("whole");
        let known = ledger.device(device);
        match outcome {
            Outcome::Accepted => drop(known.completed.insert(command)),
            Outcome::Rejected(_) => ledger.wrong("a command was rejected"),
            _ => known.queue.push_front(command),
        }
        drop(ledger);
        self.commands(device);
    }
}
