//! From options to what each device needs; everything that can be wrong is found here, before the
//! first socket.

use super::files::{Coding, Keys};
use super::options::{Credentials, Options};
use super::psk::PskClient;
use super::template::Template;
use super::tls::TlsClient;
use crate::config::secret::Secret;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// Longest client id, topic and identity after filling in, bytes.
const TEXT_MAX: usize = 1024;
/// Digits of the number in a payload.
pub const NUMBER_DIGITS: usize = 10;

/// How bytes are secured.
pub enum Channel {
    /// Not at all.
    Plain,
    /// By the server's certificate.
    Tls(TlsClient, TlsConnector),
    /// By both sides' certificates, the device's own from files.
    Mutual(TlsClient, Template, Template),
    /// By a pre-shared key.
    Psk(PskClient),
}

/// What all devices share.
pub struct Setup {
    /// As given.
    pub options: Options,
    /// The server.
    pub address: SocketAddr,
    /// Transport.
    pub channel: Channel,
    keys: Option<Keys>,
    client_id: Template,
    topic: Template,
    subscribe: Option<Template>,
    name: Template,
}

/// One device before it connects.
pub struct Plan {
    /// Position among the devices, from 0.
    pub index: usize,
    /// Its number.
    pub n: u64,
    /// Its client id.
    pub id: String,
    /// Its PSK identity or user name.
    pub name: String,
    /// Where it publishes.
    pub topic: String,
    /// What it subscribes to.
    pub filter: Option<String>,
}

/// What a device says in CONNECT.
pub enum Proof {
    /// Nothing.
    None,
    /// A user name and a password or token.
    Login(String, Secret),
}

impl Setup {
    /// Reads files and templates and resolves the host.
    ///
    /// # Errors
    /// Every problem, one sentence each.
    pub async fn new(options: Options) -> Result<Self, Vec<String>> {
        let mut problems = options.problems();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        problems.extend(options.descriptor_problem(&limits));
        if !problems.is_empty() {
            return Err(problems);
        }
        let one = |problem: String| vec![problem];
        let address = resolve(&options).await.map_err(one)?;
        let template = |name: &str, text: &str| {
            Template::parse(text).map_err(|problem| vec![format!("{name}: {problem}")])
        };
        let name = match &options.credentials {
            Credentials::Psk {
                identity: Some(identity),
                ..
            } => template("--psk-identity", identity)?,
            Credentials::Password { username, .. } => template("--username", username)?,
            _ => template("--client-id", "{id}")?,
        };
        let setup = Self {
            address,
            channel: channel(&options).map_err(one)?,
            keys: keys(&options.credentials).map_err(one)?,
            client_id: template("--client-id", &options.client_id)?,
            topic: template("--topic", &options.topic)?,
            subscribe: match &options.subscribe {
                Some(filter) => Some(template("--subscribe", filter)?),
                None => None,
            },
            name,
            options,
        };
        setup.check().map_err(one)?;
        Ok(setup)
    }

    /// Looks at every device once.
    fn check(&self) -> Result<(), String> {
        if self.client_id.is_constant() && self.options.devices > 1 {
            return Err("--client-id must hold {n}: every device needs its own".to_owned());
        }
        for index in 0..self.options.devices {
            let plan = self.plan(index);
            let longest = plan.id.len().max(plan.name.len()).max(plan.topic.len());
            if longest > TEXT_MAX {
                return Err(format!("an id or topic is longer than {TEXT_MAX} bytes"));
            }
            let needed = plan.id.len() + NUMBER_DIGITS + 2;
            if self.options.payload < needed && self.publishes() {
                return Err(format!(
                    "--payload {} is too small for \"{} NUMBER \"; use at least {needed}",
                    self.options.payload, plan.id
                ));
            }
            let known = self.keys.as_ref();
            if known.is_some_and(|keys| keys.get(plan.n, &plan.id, &plan.name).is_none()) {
                let example = known.and_then(Keys::example);
                return Err(format!(
                    "there is no key for {:?}{}; check --first, --devices and the templates",
                    plan.name,
                    example.map_or(String::new(), |name| format!(", but one for {name:?}"))
                ));
            }
        }
        if let Channel::Mutual(tls, cert, key) = &self.channel {
            let plan = self.plan(0);
            tls.connector(Some((
                Path::new(&cert.fill(plan.n, &plan.id)),
                Path::new(&key.fill(plan.n, &plan.id)),
            )))?;
        }
        Ok(())
    }

    /// Whether devices send messages at all.
    pub fn publishes(&self) -> bool {
        self.options.pace != super::Pace::Idle
    }

    /// The device at `index`.
    pub fn plan(&self, index: usize) -> Plan {
        let n = self.options.first + index as u64;
        let id = self.client_id.fill(n, "");
        Plan {
            index,
            n,
            name: self.name.fill(n, &id),
            topic: self.topic.fill(n, &id),
            filter: self.subscribe.as_ref().map(|filter| filter.fill(n, &id)),
            id,
        }
    }

    /// The key of a PSK, SAS or password device.
    pub fn key(&self, plan: &Plan) -> Secret {
        let keys = self.keys.as_ref();
        keys.and_then(|keys| keys.get(plan.n, &plan.id, &plan.name))
            .unwrap_or_default()
    }

    /// User name and password of a device that connects now.
    pub fn proof(&self, plan: &Plan) -> Proof {
        match &self.options.credentials {
            Credentials::Sas { hub, ttl, .. } => {
                let expiry = crate::runtime::clock::unix() + *ttl;
                let token = super::sas::mint(hub, &plan.id, &self.key(plan), expiry);
                let username = format!("{hub}/{}/?api-version=2021-04-12", plan.id);
                Proof::Login(username, token)
            }
            Credentials::Password { .. } => Proof::Login(plan.name.clone(), self.key(plan)),
            _ => Proof::None,
        }
    }

    /// When the device at `index` starts to connect, after the begin of the run.
    pub fn connect_delay(&self, index: usize) -> Duration {
        match self.options.connect_rate {
            Some(rate) => Duration::from_secs_f64(index as f64 / f64::from(rate)),
            None => Duration::ZERO,
        }
    }
}

async fn resolve(options: &Options) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host((options.host.as_str(), options.port)).await;
    let found: Vec<_> = found
        .map_err(|error| format!("--host {:?} cannot be resolved: {error}", options.host))?
        .collect();
    // source addresses and server must be of one family; without sources IPv4 goes first
    let v4 = options.sources.first().is_none_or(|s| s.is_ipv4());
    if options.sources.iter().any(|s| s.is_ipv4() != v4) {
        return Err("--source holds IPv4 and IPv6 addresses; use one family".to_owned());
    }
    let fitting = found.iter().find(|address| address.is_ipv4() == v4);
    match (fitting, found.first()) {
        (Some(address), _) => Ok(*address),
        (None, Some(address)) if options.sources.is_empty() => Ok(*address),
        _ => Err(format!(
            "--host {:?} has no address of the family of --source",
            options.host
        )),
    }
}

fn channel(options: &Options) -> Result<Channel, String> {
    match (&options.credentials, &options.ca) {
        (Credentials::Psk { .. }, Some(_)) => {
            Err("--ca does not go with a PSK, which proves both sides".to_owned())
        }
        (Credentials::Psk { .. }, None) => Ok(Channel::Psk(PskClient::new(options.tls)?)),
        (Credentials::Certificate { .. }, None) => {
            Err("--cert needs --ca FILE, the CA of the server".to_owned())
        }
        (_, None) => Ok(Channel::Plain),
        (Credentials::Certificate { cert, key }, Some(ca)) => {
            let tls = TlsClient::new(ca, &options.host, options.tls)?;
            let (cert, key) = (Template::parse(cert)?, Template::parse(key)?);
            if cert.is_constant() && key.is_constant() {
                let path = |template: &Template| PathBuf::from(template.fill(0, ""));
                let connector = tls.connector(Some((&path(&cert), &path(&key))))?;
                return Ok(Channel::Tls(tls, connector));
            }
            Ok(Channel::Mutual(tls, cert, key))
        }
        (_, Some(ca)) => {
            let tls = TlsClient::new(ca, &options.host, options.tls)?;
            let connector = tls.connector(None)?;
            Ok(Channel::Tls(tls, connector))
        }
    }
}

fn keys(credentials: &Credentials) -> Result<Option<Keys>, String> {
    match credentials {
        Credentials::None | Credentials::Certificate { .. } => Ok(None),
        Credentials::Psk { file, template, .. } => match (file, template) {
            (Some(file), None) => Keys::by_name(file, Coding::Psk).map(Some),
            (None, Some(template)) => Keys::template(template, Coding::Psk).map(Some),
            _ => Err("a PSK needs either --psk-file or --psk-key-template".to_owned()),
        },
        Credentials::Sas { keys, .. } => Keys::either(keys, Coding::Base64).map(Some),
        Credentials::Password { passwords, .. } => Keys::either(passwords, Coding::Text).map(Some),
    }
}
