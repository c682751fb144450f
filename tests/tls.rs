//! Real TLS clients against one port: rustls for certificates, OpenSSL for pre-shared keys.

#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

#[path = "tls/alpn.rs"]
mod alpn;
#[path = "tls/certificates.rs"]
mod certificates;
#[cfg(feature = "interop")]
#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/hostile.rs"]
mod hostile;
#[path = "tls/old_certificates.rs"]
mod old_certificates;
#[path = "tls/outside.rs"]
mod outside;
#[path = "tls/psk.rs"]
mod psk;
#[path = "tls/records.rs"]
mod records;
#[path = "tls/support.rs"]
mod support;
