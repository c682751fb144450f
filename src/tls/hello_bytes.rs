//! Hand-made ClientHellos for tests of the parser and of the routing.

use crate::tls::hello::{Parsed, parse};

/// Builds a ClientHello field by field; the order of calls is the order of extensions.
pub struct Builder {
    version: u16,
    suites: Vec<u16>,
    extensions: Vec<(u16, Vec<u8>)>,
    tail: Vec<u8>,
}

impl Builder {
    pub fn tls12(suites: &[u16]) -> Self {
        Self {
            version: 0x0303,
            suites: suites.to_vec(),
            extensions: vec![],
            tail: vec![],
        }
    }

    pub fn tls13(suites: &[u16]) -> Self {
        Self::tls12(suites).extension(43, &[2, 3, 4]).modes(&[1])
    }

    pub fn version(mut self, version: u16) -> Self {
        self.version = version;
        self
    }

    pub fn extension(mut self, kind: u16, body: &[u8]) -> Self {
        self.extensions.push((kind, body.to_vec()));
        self
    }

    pub fn modes(mut self, modes: &[u8]) -> Self {
        self.extensions.retain(|(kind, _)| *kind != 45);
        let body = vector8(modes);
        self.extension(45, &body)
    }

    pub fn psk(self, identities: &[&[u8]], binder: usize) -> Self {
        let mut list = Vec::new();
        let mut binders = Vec::new();
        for identity in identities {
            list.extend(vector16(identity));
            list.extend([0; 4]);
            binders.extend(vector8(&vec![7; binder]));
        }
        let body = [vector16(&list), vector16(&binders)].concat();
        self.extension(41, &body)
    }

    pub fn trailing(mut self, bytes: &[u8]) -> Self {
        self.tail = bytes.to_vec();
        self
    }

    pub fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([9; 32]);
        body.extend(vector8(&[5; 32]));
        let suites: Vec<u8> = self.suites.iter().flat_map(|id| id.to_be_bytes()).collect();
        body.extend(vector16(&suites));
        body.extend([1, 0]);
        let mut list = Vec::new();
        for (kind, bytes) in &self.extensions {
            list.extend(kind.to_be_bytes());
            list.extend(vector16(bytes));
        }
        if !list.is_empty() {
            body.extend(vector16(&list));
        }
        body.extend(&self.tail);
        let length = u32::try_from(body.len()).expect("small").to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    pub fn raw(&self) -> Vec<u8> {
        self.records(1 << 14)
    }

    /// The same hello in records of at most `size` bytes.
    pub fn records(&self, size: usize) -> Vec<u8> {
        self.message()
            .chunks(size)
            .flat_map(|part| [vec![22, 3, 1], vector16(part)].concat())
            .collect()
    }
}

pub fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("small")][..], bytes].concat()
}

pub fn vector16(bytes: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(bytes.len()).expect("small").to_be_bytes()[..],
        bytes,
    ]
    .concat()
}

/// A reader that sees any strict prefix must wait, not judge.
pub fn assert_every_prefix_is_partial(raw: &[u8]) {
    for end in 0..raw.len() {
        let parsed = parse(&raw[..end]);
        assert!(
            matches!(parsed, Parsed::Partial),
            "{end} of {}: {parsed:?}",
            raw.len()
        );
    }
    assert!(matches!(parse(raw), Parsed::Complete(_)));
}
