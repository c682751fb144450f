//! A handshake whose client is silent makes room while others want its place.
//!
//! Many devices can share an address with one that opens connections and says nothing; each of
//! those would hold a place for all of `limits.tls_timeout`.

use super::Site;
use crate::runtime::clock;
use crate::tls::Flight;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a client may let its handshake wait, all in all, while others of its source stand in
/// line for its place, and how often that is looked at then.
const SILENCE: Duration = Duration::from_millis(1500);
const LOOK: Duration = Duration::from_millis(250);

/// Why it was ended.
pub(super) const TEXT: &str = "the client was silent while others of its source stood in line";

/// Resolves when the client has let its handshake wait and others want its place.
pub(super) async fn wanted(site: &Site, source: SocketAddr, flight: &Flight) {
    loop {
        let waited = flight.waited(clock::mono());
        let left = SILENCE.saturating_sub(waited);
        if left.is_zero() && site.shared.gate.makes_room(source.ip()) {
            return;
        }
        tokio::time::sleep(left.max(LOOK)).await;
    }
}
