//! Protocol headers (2.2), SASL (5.3.2) and OPEN (2.4.1), both sides.

use super::{Closed, Connection, Side, Stage};
use crate::amqp::event::Event;
use crate::amqp::fault::Fault;
use crate::amqp::frame::{self, Kind};
use crate::amqp::performative::{self, Open};
use crate::amqp::sasl::{self, Frame, Sasl};
use crate::config::secret::Secret;
use bytes::BufMut;
use fe2o3_amqp_types::definitions::AmqpError;
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslMechanisms, SaslOutcome, SaslResponse};
use serde_amqp::primitives::Binary;
use serde_amqp::serde::Serialize;
use std::time::Duration;
use zeroize::Zeroize;

impl Connection {
    /// A client speaks first, as far as it can without an answer.
    pub(super) fn start(&mut self) {
        if self.config.side == Side::Server {
            return;
        }
        match self.config.sasl {
            Sasl::Client(..) => self.io.out.put_slice(&frame::SASL),
            _ => self.put_open(),
        }
    }

    /// The AMQP header and OPEN.
    fn put_open(&mut self) {
        self.io.out.put_slice(&frame::AMQP);
        let open = self.open();
        // The peer's max-frame-size is not known yet: only what every peer takes is allowed.
        self.io.frame_max = frame::SIZE_MIN as usize;
        if self.io.put(0, &open).is_err() {
            let bare = Open {
                properties: None,
                desired_capabilities: None,
                ..open
            };
            self.io.frame_max = self.io.limits.frame_size as usize;
            let _ = self.io.put(0, &bare);
        }
    }

    /// The peer's protocol header.
    pub(super) fn on_header(&mut self, header: [u8; 8]) {
        let wants_sasl = header == frame::SASL;
        if !wants_sasl && header != frame::AMQP {
            self.refuse_header(header);
            return;
        }
        match (self.config.side, self.stage) {
            (_, Stage::AmqpHeader) if !wants_sasl => {
                if self.config.side == Side::Server {
                    self.put_open();
                }
                self.stage = Stage::Open;
            }
            (Side::Client, Stage::FirstHeader) => {
                let sasl = matches!(self.config.sasl, Sasl::Client(..));
                match (sasl, wants_sasl) {
                    (true, true) => self.stage = Stage::SaslMechanisms,
                    (false, false) => self.stage = Stage::Open,
                    // Without the layer we asked for we stay a stranger.
                    _ => self.refuse_header(header),
                }
            }
            (Side::Server, Stage::FirstHeader) => self.on_client_header(header, wants_sasl),
            _ => self.refuse_header(header),
        }
    }

    fn on_client_header(&mut self, header: [u8; 8], wants_sasl: bool) {
        let offer = match &self.config.sasl {
            Sasl::Server {
                mechanisms,
                required,
            } => Some((sasl::mechanisms(mechanisms), *required)),
            _ => None,
        };
        match (offer, wants_sasl) {
            (Some((mechanisms, _)), true) => {
                self.io.out.put_slice(&frame::SASL);
                self.put_sasl(&mechanisms);
                self.stage = Stage::SaslInit;
            }
            (Some((_, false)) | None, false) => {
                self.put_open();
                self.stage = Stage::Open;
            }
            _ => self.refuse_header(header),
        }
    }

    /// 2.2: who cannot go on says which protocol it speaks, and ends.
    fn refuse_header(&mut self, header: [u8; 8]) {
        if self.config.side == Side::Server {
            let ours = match self.config.sasl {
                Sasl::Server { required: true, .. } => frame::SASL,
                _ => frame::AMQP,
            };
            self.io.out.put_slice(&ours);
        }
        self.finish(Closed::Header(header), None);
    }

    fn put_sasl<T: Serialize>(&mut self, performative: &T) {
        let max = self.io.limits.sasl_frame_size as usize;
        let _ = performative::encode(&mut self.io.out, Kind::Sasl, 0, performative, max);
    }

    /// A SASL frame.
    pub(super) fn on_sasl(&mut self, body: &[u8]) -> Result<(), Fault> {
        let frame = sasl::decode(body, &self.io.limits)?;
        match (self.stage, frame) {
            (Stage::SaslMechanisms, Frame::Mechanisms(offer)) => self.choose(&offer),
            (Stage::SaslOutcome, Frame::Challenge(_)) if !self.challenged => {
                // Some servers ask again for what the initial response said.
                self.challenged = true;
                if let Sasl::Client(mechanism, _) = &self.config.sasl {
                    let mut response = SaslResponse {
                        response: Binary::from(mechanism.response()),
                    };
                    self.put_sasl(&response);
                    response.response.zeroize();
                }
            }
            (Stage::SaslOutcome, Frame::Outcome(outcome)) => match outcome.code {
                SaslCode::Ok => {
                    self.put_open();
                    self.stage = Stage::AmqpHeader;
                }
                code => self.finish(Closed::Sasl(code), None),
            },
            (Stage::SaslInit, Frame::Init(init)) => self.on_init(*init),
            _ => {
                let what = "a SASL frame is not the one that comes now";
                return Err(Fault::connection(AmqpError::IllegalState, what));
            }
        }
        Ok(())
    }

    fn choose(&mut self, offer: &SaslMechanisms) {
        let Sasl::Client(mechanism, hostname) = &self.config.sasl else {
            return;
        };
        let offered = &offer.sasl_server_mechanisms.0;
        if !offered.iter().any(|name| name.as_str() == mechanism.name()) {
            let names: Vec<&str> = offered.iter().map(|name| name.as_str()).collect();
            let names = names.join(" ");
            self.finish(Closed::Mechanism(names), None);
            return;
        }
        let mut init = sasl::init(mechanism, hostname.as_ref());
        self.put_sasl(&init);
        if let Some(response) = &mut init.initial_response {
            response.zeroize();
        }
        self.stage = Stage::SaslOutcome;
    }

    fn on_init(&mut self, init: SaslInit) {
        let mechanism = init.mechanism.into_inner();
        let offered = match &self.config.sasl {
            Sasl::Server { mechanisms, .. } => mechanisms.contains(&mechanism.as_str()),
            _ => false,
        };
        self.stage = Stage::SaslVerdict;
        if !offered {
            self.sasl_outcome(SaslCode::Auth);
            return;
        }
        let response = init.initial_response.map(Binary::into_vec);
        self.io.events.push_back(Event::SaslInit {
            mechanism,
            response: Secret::new(response.unwrap_or_default()),
            hostname: init.hostname,
        });
    }

    /// A server's verdict about [`Event::SaslInit`].
    pub fn sasl_outcome(&mut self, code: SaslCode) {
        if self.stage != Stage::SaslVerdict {
            return;
        }
        self.put_sasl(&SaslOutcome {
            code: code.clone(),
            additional_data: None,
        });
        if code == SaslCode::Ok {
            self.stage = Stage::AmqpHeader;
        } else {
            self.finish(Closed::Sasl(code), None);
        }
    }

    /// The peer's OPEN.
    pub(super) fn on_open(&mut self, open: Box<Open>) -> Result<(), Fault> {
        let size = open.max_frame_size.0;
        if size < frame::SIZE_MIN {
            let what = "max-frame-size is below 512";
            return Err(Fault::connection(AmqpError::InvalidField, what));
        }
        self.io.frame_max = size.min(self.io.limits.frame_size) as usize;
        self.remote_channel_max = open.channel_max.0;
        let asked = open.idle_time_out.filter(|millis| *millis > 0);
        self.ping = asked.map(|millis| {
            let half = Duration::from_millis(millis.into()) / 2;
            half.max(self.io.limits.ping)
        });
        self.stage = Stage::Up;
        self.io.events.push_back(Event::Opened(open));
        Ok(())
    }
}
