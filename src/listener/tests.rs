//! The port from outside, and what needs no socket.

mod port;
mod proxy;
mod websocket;

use super::{BACKOFF_MAX, Backoff, LOG_TEXT_BYTES, is_peers_fault, log_text};
use std::io;
#[test]
fn a_failing_accept_waits_longer_each_time_up_to_a_bound() {
    let mut backoff = Backoff::default();
    assert!(backoff.is_fresh());
    let mut last = backoff.next();
    assert!(!last.is_zero() && !backoff.is_fresh());
    for _ in 0..50 {
        let pause = backoff.next();
        assert!(pause >= last && pause <= BACKOFF_MAX);
        last = pause;
    }
    assert_eq!(last, BACKOFF_MAX);
}

#[test]
fn out_of_files_is_our_fault_and_an_aborted_connection_is_not() {
    const EMFILE: i32 = 24;
    assert!(!is_peers_fault(&io::Error::from_raw_os_error(EMFILE)));
    assert!(is_peers_fault(&io::ErrorKind::ConnectionAborted.into()));
}

#[test]
fn a_foreign_text_is_cut_between_characters() {
    let text = "ä".repeat(LOG_TEXT_BYTES);
    let cut = log_text(&text);
    assert!(cut.len() <= LOG_TEXT_BYTES && text.starts_with(cut));
    assert_eq!(log_text("short"), "short");
}
