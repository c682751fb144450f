//! Dishonest clients on real sockets, through the whole listener.
//!
//! What is pinned elsewhere is not repeated here:
//!
//! | case | where |
//! |---|---|
//! | A-1 largest remaining length, one byte at a time | here, `slow`; `mqtt::tests::cuts` |
//! | A-2 first packets that are no CONNECT | here, `first`; `mqtt::tests::cuts` |
//! | A-3 half-open handshakes; A-19 trickles; A-20 refusals give permits back | here, `slow` |
//! | A-4 fields of 64 KiB in CONNECT | here, `first` |
//! | A-5 … A-9 windows, packet ids, QoS 2, filters | here, `flow`; `mqtt::session::tests::windows` |
//! | A-10 … A-13 vectors, cuts, mutations, model | `mqtt::tests`, `mqtt::session::tests::model` |
//! | A-14 hello in one-byte records, alerts in a handshake | `tests/tls/hostile.rs` |
//! | A-16 chains of a hundred certificates | here, `first`; `tests/tls/certificates.rs` |
//! | A-17 password floods | `listener::admission`, `listener::password` |
//! | A-18 keep-alive 0 and 65535 | here, `slow`; `mqtt::session::tests` |
//! | A-21 table of CONNECTs | here, `connects`; `auth::tests::table` |
//! | A-22 rules files empty, cut, doubled, CRLF, BOM | `auth::rules::tests`; keys in `tests/cli` |
//! | A-24 no rule, no device | `auth::tests::empty_rules_admit_nobody` |
//! | A-26, A-27, A-31 foreign and odd ids and topics | here, `connects`; `auth::identity` |
//! | A-38, A-39 PSK identities and keys | here, `connects`; `tests/tls/psk.rs`, `psk_file` |
//! | A-40 unknown identity and wrong key look and last alike | here, `timing` |
//! | A-41, A-42 certificate clients and flaws | `tests/tls/certificates.rs`, `auth::tests` |
//! | A-43 tickets of another device | `tests/tls/certificates.rs`: nothing is resumed |
//! | A-44 renegotiation | here, `first`; `tls::psk::tests` |
//! | A-45 old versions, weak suites | here, `first`; `tests/tls/{hostile,psk}.rs` |
//! | A-46 other protocols | here, `first`; `tests/tls/hostile.rs` |

#[path = "../support/mod.rs"]
mod support;

mod connects;
mod first;
mod flow;
mod raw;
mod slow;
mod timing;
