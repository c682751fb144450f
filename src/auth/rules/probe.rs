//! The questions of `check --as` and of `[[expect]]`: a connection one could imagine, whose
//! credentials count as proved.

use super::RuleSet;
use crate::auth::authorize::{Facts, Granted, Proof, authorize, check_client_id, combine};
use crate::auth::denial::{self, Denial};
use crate::auth::explain::{Explanation, Outcome, PROBE_TIME, Trace};
use crate::auth::x509::{Certificate, Fingerprint, Old, parse_thumbprint};
use crate::auth::{CredentialKind, username};
use crate::runtime::clock::Unix;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A connection one could imagine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The transport's first.
    credentials: Vec<Presented>,
    /// MQTT client id; empty: CONNECT has none.
    pub client_id: String,
    /// Listener's name.
    pub listener: String,
    /// Peer's address.
    pub source: IpAddr,
    /// MQTT user name.
    pub username: Option<String>,
    /// Common names of a certificate that is given by its thumbprint.
    pub common_names: Vec<String>,
    /// Alternative names of the certificate.
    pub san: Vec<String>,
    /// CAs that verified the certificate.
    pub anchors: Vec<Fingerprint>,
    /// How long the SAS token lives from now on; any life when not given.
    pub token_life: Option<Duration>,
    /// What the listener takes and the hub is called; not looked at when not given.
    pub place: Option<Place>,
}

/// Where a connection is imagined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Credentials the listener takes.
    pub accept: Vec<CredentialKind>,
    /// `[hub] host`.
    pub hub_host: String,
}

/// A credential by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Presented {
    kind: CredentialKind,
    name: String,
    thumbprint: Option<Box<[u8]>>,
}

const FORM: &str = "must be psk:IDENTITY, x509:COMMON-NAME, thumbprint:HEX, sas:DEVICE, \
                    password:USER or none";

impl Presented {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (kind, name) = text.split_once(':').ok_or(FORM)?;
        let mut thumbprint = None;
        let kind = match kind {
            "psk" => CredentialKind::Psk,
            "x509" => CredentialKind::X509,
            "thumbprint" => {
                thumbprint = Some(parse_thumbprint(name)?);
                CredentialKind::X509
            }
            "sas" => CredentialKind::Sas,
            "password" => CredentialKind::Password,
            _ => return Err(FORM),
        };
        // Clients send passwords without a user name, and tokens whose device cannot be read.
        let nameless = matches!(kind, CredentialKind::Password | CredentialKind::Sas);
        if name.is_empty() && !nameless {
            return Err(FORM);
        }
        Ok(Self {
            kind,
            name: name.to_owned(),
            thumbprint,
        })
    }
}

impl Probe {
    /// Parses one credential: `psk:IDENTITY`, `x509:COMMON-NAME`, `thumbprint:HEX`, `sas:DEVICE`
    /// or `password:USER`. The client id is what stands after the colon until set otherwise.
    ///
    /// # Errors
    /// How it must be written.
    pub fn parse(connect: &str) -> Result<Self, &'static str> {
        Self::of(&[connect])
    }

    /// The same for everything that is presented; `none` for nothing.
    ///
    /// # Errors
    /// How it must be written.
    pub fn of(presented: &[&str]) -> Result<Self, &'static str> {
        let credentials = match presented {
            ["none"] => Vec::new(),
            [] => return Err(FORM),
            several => {
                let parsed = several.iter().map(|text| Presented::parse(text));
                parsed.collect::<Result<Vec<_>, _>>()?
            }
        };
        let of_transport = |p: &&Presented| is_of_transport(p.kind);
        let transports = credentials.iter().filter(of_transport).count();
        if transports > 1 || credentials.len() - transports > 1 {
            return Err("twice: give a PSK or a certificate, and a token or a password");
        }
        let first = credentials.first();
        let user = credentials
            .iter()
            .find(|presented| presented.kind == CredentialKind::Password)
            .map(|presented| presented.name.clone());
        Ok(Self {
            client_id: first.map(|p| p.name.clone()).unwrap_or_default(),
            listener: String::new(),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            username: user.filter(|name| !name.is_empty()),
            common_names: Vec::new(),
            san: Vec::new(),
            anchors: Vec::new(),
            token_life: None,
            place: None,
            credentials,
        })
    }

    /// The kinds of credential.
    pub fn credentials(&self) -> impl Iterator<Item = CredentialKind> {
        self.credentials.iter().map(|presented| presented.kind)
    }

    /// Whether it is a certificate known by its name and its CA, not by its thumbprint.
    #[must_use]
    pub fn is_issued(&self) -> bool {
        let issued = |p: &Presented| p.kind == CredentialKind::X509 && p.thumbprint.is_none();
        self.credentials.iter().any(issued)
    }

    /// What is asked before any key and any rule: form and kind, in the order of CONNECT.
    ///
    /// # Errors
    /// The refusal.
    pub fn form(&self) -> Result<(), Denial> {
        let id = self.claimed_id();
        if !id.is_empty() {
            check_client_id(&id)?;
        }
        for presented in &self.credentials {
            self.takes(presented.kind)?;
            let hub = self.place.as_ref().map(|place| place.hub_host.as_str());
            let name = self.username.as_deref().unwrap_or_default();
            match (presented.kind, hub) {
                (CredentialKind::Sas, Some(hub)) if !name.is_empty() => {
                    username::check(name, hub, &id)?;
                }
                (CredentialKind::Password, _) if name.is_empty() => {
                    return Err(denial::USERNAME_MISSING);
                }
                _ => {}
            }
        }
        let by_transport = self.credentials().all(is_of_transport);
        if let (Some(name), Some(place), true) = (&self.username, &self.place, by_transport)
            && username::names_hub(name, &place.hub_host)
            && !self.client_id.is_empty()
        {
            username::check(name, &place.hub_host, &self.client_id)?;
        }
        match self.credentials.is_empty() {
            true => Err(denial::NO_CREDENTIALS),
            false => Ok(()),
        }
    }

    fn takes(&self, kind: CredentialKind) -> Result<(), Denial> {
        match &self.place {
            Some(place) if !place.accept.contains(&kind) => Err(denial::NOT_ACCEPTED),
            _ => Ok(()),
        }
    }

    /// The client id, or what the token names without one.
    fn claimed_id(&self) -> String {
        let token = self.credentials.iter();
        let token = token.filter(|presented| presented.kind == CredentialKind::Sas);
        match self.client_id.as_str() {
            "" => token.map(|p| p.name.clone()).next().unwrap_or_default(),
            id => id.to_owned(),
        }
    }

    fn proof(&self, presented: &Presented) -> Proof {
        match presented.kind {
            CredentialKind::Psk => Proof::Psk {
                identity: presented.name.as_str().into(),
            },
            CredentialKind::Sas => Proof::Sas,
            CredentialKind::Password => Proof::Password,
            CredentialKind::X509 => Proof::X509 {
                certificate: Box::new(self.certificate(presented)),
                trusted: presented.thumbprint.is_none() || !self.anchors.is_empty(),
                anchors: self.anchors.clone(),
            },
        }
    }

    fn certificate(&self, presented: &Presented) -> Certificate {
        let print = presented.thumbprint.as_deref().unwrap_or_default();
        let names = match presented.thumbprint {
            None => vec![presented.name.as_str().into()],
            Some(_) => self
                .common_names
                .iter()
                .map(|n| n.as_str().into())
                .collect(),
        };
        Certificate {
            common_names: names,
            alternative_names: self.san.iter().map(|n| n.as_str().into()).collect(),
            sha1: print.try_into().unwrap_or_default(),
            sha256: print.try_into().unwrap_or_default(),
            not_before: Unix::from_secs(0),
            not_after: Unix::from_secs(u64::MAX),
            serial: Box::default(),
            issuer: Default::default(),
            for_clients: true,
            signs: true,
            old: Old::default(),
        }
    }
}

fn is_of_transport(kind: CredentialKind) -> bool {
    matches!(kind, CredentialKind::Psk | CredentialKind::X509)
}

impl RuleSet {
    /// Which rule would decide about a connection, and why not the ones before it.
    #[must_use]
    pub fn explain_as(&self, probe: &Probe) -> Explanation {
        let mut trace = Trace::on();
        let facts = Facts {
            proofs: Vec::new(),
            listener: probe.listener.as_str().into(),
            source: probe.source,
            username: probe.username.as_deref().map(Into::into),
            client_id: probe.claimed_id().into(),
            client_id_sent: !probe.client_id.is_empty(),
            expires: probe
                .token_life
                .map(|life| PROBE_TIME + life + self.sas.clock_skew),
        };
        let granted = probe.form().and_then(|()| {
            let mut granted: Option<Granted> = None;
            for presented in &probe.credentials {
                let proof = probe.proof(presented);
                let next = authorize(self, &facts, &proof, PROBE_TIME, &mut trace)?;
                granted = Some(combine(granted, next)?);
            }
            granted.ok_or(denial::NO_CREDENTIALS)
        });
        Explanation {
            device: trace.device().map(str::to_owned),
            steps: trace.into_steps(),
            outcome: granted.map(|granted| Outcome::of(&granted)),
            password_pending: false,
        }
    }
}
