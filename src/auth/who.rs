//! Who asked, by the names it gave: for the log line of a refusal, and for the `check --as` that
//! asks the rules again. Names only; nothing here was proved, and no secret is kept.

use super::authorize::Proof;
use super::rules::encoding::encode_hex;
use super::x509::{Certificate, Fingerprint};
use super::{AuthenticatedDevice, Claim, Transport, sas};
use crate::telemetry::shell::option;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Names and places of a connection, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// As `check --as` takes them, e.g. `psk:thermo-1`; the transport's first. Empty: none.
    pub credentials: Vec<String>,
    /// The certificate's common names.
    pub common_names: Vec<String>,
    /// The certificate's alternative names.
    pub alternative_names: Vec<String>,
    /// SHA-256 of the CA that vouched for it.
    pub issuer_ca: Option<Fingerprint>,
    /// MQTT client id, empty when CONNECT had none; `None` before CONNECT.
    pub client_id: Option<String>,
    /// MQTT user name.
    pub username: Option<String>,
    /// Name of the listener.
    pub listener: String,
    /// The peer's address.
    pub source: IpAddr,
}

impl Who {
    /// Somebody at this listener.
    #[must_use]
    pub fn at(listener: &str, source: IpAddr) -> Self {
        Self {
            credentials: Vec::new(),
            common_names: Vec::new(),
            alternative_names: Vec::new(),
            issuer_ca: None,
            client_id: None,
            username: None,
            listener: listener.to_owned(),
            source: source.to_canonical(),
        }
    }

    /// Who offered this PSK identity.
    #[must_use]
    pub fn with_psk(mut self, identity: &str) -> Self {
        self.credentials.push(format!("psk:{identity}"));
        self
    }

    /// Who showed this certificate, DER.
    #[must_use]
    pub fn with_certificate(mut self, der: &[u8], anchor: Option<Fingerprint>) -> Self {
        match Certificate::parse(der) {
            Ok(certificate) => self.name(&certificate, anchor),
            // Its thumbprint is all that can be said.
            Err(_) => {
                let print = super::x509::fingerprint(der);
                self.credentials
                    .push(format!("thumbprint:{}", &*encode_hex(&print)));
            }
        }
        self
    }

    /// Who proved this.
    #[must_use]
    pub fn with_transport(self, transport: Transport<'_>) -> Self {
        match transport {
            Transport::None => self,
            Transport::Psk(identity) => self.with_psk(identity),
            Transport::Certificate { chain, anchors, .. } => {
                let der = chain.first().map(Vec::as_slice).unwrap_or_default();
                let anchor = anchors.first().map(|der| super::x509::fingerprint(der));
                self.with_certificate(der, anchor)
            }
        }
    }

    fn name(&mut self, certificate: &Certificate, anchor: Option<Fingerprint>) {
        let print = encode_hex(&certificate.sha256);
        self.credentials.push(format!("thumbprint:{}", &*print));
        let names = certificate.common_names.iter();
        self.common_names = names.map(|name| name.to_string()).collect();
        let names = certificate.alternative_names.iter();
        self.alternative_names = names.map(|name| name.to_string()).collect();
        self.issuer_ca = anchor;
    }

    /// Who made this claim.
    #[must_use]
    pub fn of_claim(claim: &Claim<'_>) -> Self {
        let who = Self::at(claim.listener, claim.source).with_transport(claim.transport);
        let password = claim.password.unwrap_or_default();
        who.with_login(claim.client_id, claim.username, password)
    }

    /// Who gave these names in CONNECT.
    #[must_use]
    pub fn with_login(mut self, client_id: &str, username: Option<&str>, password: &[u8]) -> Self {
        if sas::looks_like_token(password) {
            let token = str::from_utf8(password).unwrap_or_default();
            let of_token = || sas::device_of(token).unwrap_or_default();
            let device = match client_id {
                "" => of_token(),
                id => id.to_owned(),
            };
            self.credentials.push(format!("sas:{device}"));
        } else if !password.is_empty() {
            let name = username.unwrap_or_default();
            self.credentials.push(format!("password:{name}"));
        }
        self.client_id = Some(client_id.to_owned());
        self.username = username.map(str::to_owned);
        self
    }

    /// Whose session this is.
    #[must_use]
    pub fn of_device(device: &AuthenticatedDevice) -> Self {
        let facts = &device.facts;
        let mut who = Self::at(&facts.listener, facts.source);
        for proof in &facts.proofs {
            match proof {
                Proof::Psk { identity } => who = who.with_psk(identity),
                Proof::X509 {
                    certificate,
                    anchors,
                    ..
                } => who.name(certificate, anchors.first().copied()),
                Proof::Sas => who.credentials.push(format!("sas:{}", facts.client_id)),
                Proof::Password => {
                    let name = facts.username.as_deref().unwrap_or_default();
                    who.credentials.push(format!("password:{name}"));
                }
            }
        }
        who.client_id = Some(match facts.client_id_sent {
            true => facts.client_id.to_string(),
            false => String::new(),
        });
        who.username = facts.username.as_deref().map(str::to_owned);
        who
    }

    /// The names for a log line: what the credentials say, a certificate by its common name too.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        let names = self.common_names.iter().map(|name| format!("cn:{name}"));
        let names: Vec<_> = names.chain(self.credentials.iter().cloned()).collect();
        (!names.is_empty()).then(|| names.join(" "))
    }

    /// Every name it gave, each once: client id, credentials, common names.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        let of = |credential| str::split_once(credential, ':').map(|(_, name)| name);
        let credentials = self.credentials.iter().map(String::as_str).filter_map(of);
        let names = self.common_names.iter().chain(&self.client_id);
        let names = names.map(String::as_str).chain(credentials);
        names.filter(|name| !name.is_empty()).collect()
    }

    /// The arguments of the `check` that asks the same.
    #[must_use]
    pub fn question(&self) -> String {
        let mut line = String::new();
        for credential in &self.credentials {
            option(&mut line, "as", credential);
        }
        if self.credentials.is_empty() {
            option(&mut line, "as", "none");
        }
        for name in &self.common_names {
            option(&mut line, "cn", name);
        }
        for name in &self.alternative_names {
            option(&mut line, "san", name);
        }
        if let Some(ca) = &self.issuer_ca {
            option(
                &mut line,
                "issuer-ca",
                &format!("sha256:{}", &*encode_hex(ca)),
            );
        }
        if let Some(id) = &self.client_id {
            option(&mut line, "client-id", id);
        }
        // `password:NAME` names it already.
        let named = |credential: &String| credential.starts_with("password:");
        if let Some(name) = self.username.as_ref()
            && !self.credentials.iter().any(named)
        {
            option(&mut line, "username", name);
        }
        option(&mut line, "source", &self.source.to_string());
        option(&mut line, "listener", &self.listener);
        line
    }
}
