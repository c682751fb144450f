//! From an accepted socket to an admitted device: TLS, CONNECT, the rules, the claim.
//!
//! Every step has a deadline and every refusal a reason in a metric. Nothing here reads past
//! CONNECT for the device, and CONNACK 0 is written only after the rules said yes, the will was
//! checked and the older session of the device has ended. The future is large; what serves the
//! device afterwards is a new small task (`conn`).

use super::admission::{Permit, Turn};
use super::asked::Asked;
use super::conn::{self, Bounds, Conn, Opened};
use super::ending::Ending;
use super::password::Checked;
use super::refusal::Line;
use super::refusal::connect::{claim, connect_line, proved};
use super::setup::{Counted, Setup};
use super::{Site, poison, room};
use crate::auth::rules::{Properties, RuleSet, Unmatched};
use crate::auth::{self, Admission, AuthenticatedDevice, Decision, Denial, DenialKind, Who};
use crate::hub::message::DeviceAddress;
use crate::mqtt::packet::{Connect, Will};
use crate::mqtt::session::ConnectRefusal;
use crate::router::registry::{Claim, SessionKey};
use crate::router::topic_map::{self, TopicError};
use crate::runtime::clock;
use crate::telemetry::log::CONNECT;
use crate::telemetry::reason::Reason;
use crate::tls::{Accepted, Claimed, Flight, HandshakeError, KeySlot, Peer, Stream};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Time for a refusal's CONNACK to be taken.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);

/// What an arrival's bytes come by.
pub(super) enum Carrier {
    /// A socket; its handshake is still to come.
    Tcp(TcpStream),
    /// A stream that somebody else accepted, with what was proved.
    Proved(Accepted),
}

/// What the gate let in.
pub(super) struct Arrival {
    pub(super) carrier: Carrier,
    pub(super) source: SocketAddr,
    /// For the connection's life.
    pub(super) connection: Permit,
    /// Up to the answer to CONNECT.
    pub(super) handshake: Turn,
    pub(super) ending: Ending,
}

/// Why a socket got no further, for the metric; the log has been told.
struct Failure(Reason);

/// A CONNECT that is answered with a refusal.
pub(super) struct Refusal {
    code: ConnectRefusal,
    pub(super) reason: Reason,
    /// For the device and the log.
    pub(super) text: Cow<'static, str>,
    /// For the log only: it may say whether a device exists.
    pub(super) detail: &'static str,
    /// The will's.
    pub(super) topic: Option<String>,
}

impl Refusal {
    fn unavailable(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: ConnectRefusal::ServerUnavailable,
            reason,
            text: text.into(),
            detail: "",
            topic: None,
        }
    }
}

/// An authenticated device that holds its claim.
struct Granted {
    admission: Admission,
    claim: Claim,
}

/// Takes an arrival to its end: a served device, or a counted reason.
pub(super) async fn welcome(arrival: Arrival, site: Arc<Site>) {
    let Arrival {
        carrier,
        source,
        connection,
        handshake,
        mut ending,
    } = arrival;
    let stopped = site.shared.drain.clone();
    let outcome = tokio::select! {
        biased;
        () = stopped.cancelled() => {
            Err(site.stranger(source, Reason::Drain, "the gateway is stopping"))
        }
        outcome = async {
            let patience = site.shared.setup().limits.tls_timeout;
            let turn = handshake.come(patience).await;
            // Held up to the answer to CONNECT.
            let _turn = turn.map_err(|full| site.stranger(source, full.reason(), full.setting()))?;
            let flight = Arc::new(Flight::default());
            tokio::select! {
                biased;
                greeted = greet(carrier, source, &site, &flight) => greeted,
                () = room::wanted(&site, source, &flight) => {
                    Err(site.stranger(source, Reason::TlsTimeout, room::TEXT))
                }
            }
        } => outcome,
    };
    match outcome {
        Ok((asked, granted)) => open(asked, granted, source, connection, ending, &site),
        Err(Failure(reason)) => ending.end(reason),
    }
}

impl Site {
    /// Tells of somebody who said nothing of itself.
    fn stranger(&self, source: SocketAddr, reason: Reason, text: &str) -> Failure {
        self.refused(source, Who::at(&self.name, source.ip()), reason, text)
    }

    /// Tells of somebody who got as far as `who`.
    fn refused(&self, source: SocketAddr, who: Who, reason: Reason, text: &str) -> Failure {
        let line = Line::new("connection refused", who, source, reason, text);
        self.show(&line);
        self.shared.setup().voice.say(line);
        Failure(reason)
    }

    /// Shows a refusal to whoever looks at a device that was named by it. Nothing of it is proved.
    fn show(&self, line: &Line<'_>) {
        let setup = self.shared.setup();
        let watches = &setup.watches;
        if watches.any() {
            let text = format!("{}: {}; from {}", line.reason, line.text, line.source);
            let mut names = line.who.names();
            names.extend(line.device.as_deref());
            for name in names {
                watches.see(name, "connect_refused", &text);
            }
        }
    }
}

async fn greet(
    carrier: Carrier,
    source: SocketAddr,
    site: &Site,
    flight: &Arc<Flight>,
) -> Result<(Asked, Granted), Failure> {
    let Accepted { stream, peer } = match carrier {
        Carrier::Tcp(tcp) => transport(tcp, source, site, flight.clone()).await?,
        Carrier::Proved(accepted) => accepted,
    };
    if matches!(peer, Peer::Psk { .. } | Peer::Certificate { .. }) {
        flight.end(); // it has proved itself
    }
    let asked = Asked::wait(stream, site, flight).await;
    flight.end();
    let mut asked = match asked {
        Ok(asked) => asked,
        Err(early) => {
            let who = Who::at(&site.name, source.ip()).with_transport(proved(&peer));
            let who = early.name(who);
            return Err(site.refused(source, who, early.reason, &early.text));
        }
    };
    match admit(&asked.connect, &peer, source, site).await {
        Ok(granted) => {
            let assigned = granted.admission.device.assigned_client_id();
            let out = &mut asked.out;
            asked
                .session
                .accept(assigned.as_deref(), out, clock::mono());
            count_connect(site, "accepted");
            Ok((asked, granted))
        }
        Err(refusal) => {
            count_connect(site, refusal.reason.word());
            let Asked {
                stream,
                mut session,
                connect,
                mut out,
                ..
            } = asked;
            session.refuse(refusal.code, &refusal.text, &mut out);
            say_last(stream, &out).await;
            // After the answer: what the line costs may depend on who exists.
            let setup = site.shared.setup();
            let place = setup.voice.place(refusal.reason);
            let in_full = place.is_free() || setup.watches.any();
            let line = connect_line(&connect, &peer, source, site, &refusal, in_full);
            site.show(&line);
            setup.voice.say_at(place, line);
            Err(Failure(refusal.reason))
        }
    }
}

/// TLS, within the acceptor's deadlines, counted.
async fn transport(
    tcp: TcpStream,
    source: SocketAddr,
    site: &Site,
    flight: Arc<Flight>,
) -> Result<Accepted, Failure> {
    let metrics = &site.shared.setup().metrics;
    let begun = clock::mono();
    let attempts = site.shared.attempts.of_source(source.ip());
    let accepted = site
        .acceptor
        .accept_with(tcp, attempts, flight)
        .await
        .map_err(|error| {
            let HandshakeError {
                reason,
                credential,
                version,
                text,
                claimed,
            } = error;
            let labels = [credential, version, reason.word()];
            metrics.handshakes.with_label_values(&labels).inc();
            site.shared.attempts.handshake_failed(source.ip(), reason);
            let who = Who::at(&site.name, source.ip());
            let who = match &claimed {
                Claimed::Nobody => who,
                Claimed::Psk(identity) => who.with_psk(identity),
                Claimed::Certificate(der) => who.with_certificate(der, None),
            };
            site.refused(source, who, reason, &text)
        })?;
    let (credential, session) = match &accepted.peer {
        Peer::Plain => return Ok(accepted),
        Peer::Tls(session) => ("none", session),
        Peer::Certificate { session, .. } => ("x509", session),
        Peer::Psk { slot, session, .. } => {
            let slot = match slot {
                KeySlot::Current => "key",
                KeySlot::Next => "next_key",
            };
            metrics.psk_key_used.with_label_values(&[slot]).inc();
            ("psk", session)
        }
    };
    let labels = [credential, session.version, "ok"];
    metrics.handshakes.with_label_values(&labels).inc();
    let took = clock::mono().since(begun).as_secs_f64();
    let durations = &metrics.handshake_duration;
    durations.with_label_values(&[credential]).observe(took);
    Ok(accepted)
}

/// Rules, will and claim, in this order: a stranger never disturbs a session.
async fn admit(
    connect: &Connect,
    peer: &Peer,
    source: SocketAddr,
    site: &Site,
) -> Result<Granted, Refusal> {
    let rules = site.shared.rules.load_full();
    let attempts = &site.shared.attempts;
    let free = attempts.may_try(source.ip(), connect);
    free.map_err(|throttled| Refusal::unavailable(throttled.reason(), throttled.text()))?;
    let decided = authenticate(connect, peer, source, site, &rules).await;
    let refused = decided.as_ref().err().map(|refusal| refusal.code);
    attempts.decided(source.ip(), connect, refused);
    let mut admission = decided?;
    let device = &admission.device;
    let key = SessionKey::of(device);
    let setup = site.shared.setup();
    if let Some(left) = setup.blocks.left(&key) {
        let text = format!(
            "an operator keeps this device out for {} s more",
            left.as_secs()
        );
        return Err(Refusal {
            code: ConnectRefusal::NotAuthorized,
            ..Refusal::unavailable(Reason::Blocked, text)
        });
    }
    if setup.loops.waits(&key) {
        return Err(Refusal::unavailable(poison::REASON, poison::TEXT));
    }
    if let Some(will) = &connect.will {
        check_will(device, will, &setup, admission.limits.properties)?;
    }
    let claim = site.shared.registry.claim(key, device.clone());
    let claim = claim
        .await
        .map_err(|error| Refusal::unavailable(error.reason(), error.to_string()))?;
    // A reload looks through the registry after the swap. A device decided by the old rules and
    // certificates and claimed after that look is looked at here.
    let current = site.shared.rules.load_full();
    if !Arc::ptr_eq(&rules, &current) {
        let expires = admission.expires;
        let again = auth::recheck(&current, &admission.device, clock::unix());
        admission = again.map_err(denied)?;
        admission.expires = admission.expires.or(expires);
    }
    if let Some(by) = admission.device.vouched()
        && !site.acceptor.stands_for(by.anchors, by.issuer, by.serial)
    {
        return Err(Refusal {
            code: ConnectRefusal::NotAuthorized,
            reason: Reason::X509Revoked,
            text: "the certificate was revoked or its CA removed; use another one".into(),
            detail: "",
            topic: None,
        });
    }
    Ok(Granted { admission, claim })
}

/// Whether the will could be sent, or given up as the rule says.
fn check_will(
    device: &AuthenticatedDevice,
    will: &Will,
    setup: &Setup,
    manner: Properties,
) -> Result<(), Refusal> {
    let topics = device.topics();
    let drops = topics.is_some_and(|topics| topics.unmatched == Unmatched::Drop);
    match topic_map::will(device, will.clone(), setup.limits.properties, manner) {
        Ok(_) => Ok(()),
        Err(TopicError::Unknown) if drops => Ok(()),
        Err(error) => Err(Refusal {
            code: ConnectRefusal::NotAuthorized,
            reason: error.reason(),
            text: format!("the will: {error}").into(),
            detail: "",
            topic: Some(will.topic.to_string()),
        }),
    }
}

async fn authenticate(
    connect: &Connect,
    peer: &Peer,
    source: SocketAddr,
    site: &Site,
    rules: &RuleSet,
) -> Result<Admission, Refusal> {
    match auth::decide(rules, &claim(connect, peer, source, site)) {
        Decision::Admit(admission) => Ok(admission),
        Decision::Deny(denial) => Err(denied(denial)),
        Decision::CheckPassword(check) => {
            let place = site.shared.gate.password(source.ip()).ok_or(auth::BUSY);
            let place = place.map_err(denied)?;
            match site.shared.passwords.run(place, check).await {
                Checked::Decided(result) => result.map_err(denied),
                Checked::Busy => Err(denied(auth::BUSY)),
            }
        }
    }
}

fn denied(denial: Denial) -> Refusal {
    Refusal {
        code: refusal_code(denial.kind),
        reason: denial.reason,
        text: denial.text.into(),
        detail: denial.detail,
        topic: None,
    }
}

/// The return code of a denial (MQTT-3.2.2.3).
const fn refusal_code(kind: DenialKind) -> ConnectRefusal {
    match kind {
        DenialKind::BadCredentials => ConnectRefusal::BadCredentials,
        DenialKind::NotAuthorized => ConnectRefusal::NotAuthorized,
        DenialKind::ClientId => ConnectRefusal::ClientId,
        DenialKind::Unavailable => ConnectRefusal::ServerUnavailable,
    }
}

fn count_connect(site: &Site, result: &str) {
    let connects = &site.shared.setup().metrics.connects;
    connects.with_label_values(&[result]).inc();
}

/// Writes the last word and closes, each within its bound.
pub(super) async fn say_last(mut stream: Box<dyn Stream>, out: &[u8]) {
    if !out.is_empty() {
        let say = async {
            stream.write_all(out).await?;
            stream.flush().await
        };
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, say).await;
    }
    conn::shut(stream, true).await;
}

/// Hands the device over to its own small task.
fn open(
    asked: Asked,
    granted: Granted,
    source: SocketAddr,
    permit: Permit,
    ending: Ending,
    site: &Site,
) {
    let Granted { admission, claim } = granted;
    let device = admission.device;
    let setup = site.shared.setup();
    let credential = device.credential().label();
    let connections = &setup.metrics.connections;
    let live = connections.with_label_values(&[&*site.name, credential]);
    if setup.watches.any() {
        let text = format!("{source} at listener {} by {}", site.name, device.rule());
        setup
            .watches
            .see(&claim.key().to_string(), "connected", &text);
    }
    tracing::info!(
        name: "device_connected",
        target: CONNECT,
        device = %claim.key(),
        listener = %site.name,
        %source,
        credential,
        rule = %device.rule(),
        protocol = asked.connect.protocol.name(),
        transport = asked.transport,
        "device connected"
    );
    let keep_alive = Duration::from_secs(asked.connect.keep_alive_s.into());
    let long = keep_alive.is_zero() || keep_alive > setup.limits.keep_alive_advised;
    let now = clock::mono();
    let expires = admission.expires.map(|at| now + at.since(clock::unix()));
    let opened = Opened {
        stream: asked.stream,
        session: asked.session,
        links: site.shared.hub.links(DeviceAddress::of(&device)),
        device,
        claim,
        setup: setup.clone(),
        input: asked.input,
        out: asked.out,
        bounds: Bounds {
            expires,
            limits: admission.limits,
        },
        source,
        live: Counted::new(live),
        long_keep_alive: long.then(|| Counted::new(setup.metrics.long_keep_alive.clone())),
        permit,
        ending,
    };
    site.shared.tracker.spawn(conn::serve(Conn::new(opened)));
}
