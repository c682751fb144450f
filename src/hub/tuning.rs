//! Internal constants of the upstream, each with its reason. What an operator may want to change
//! is in `HubConfig`; these follow from the protocol.

use std::time::Duration;

/// The kernel gives up on unacknowledged data after this.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// `max-frame-size` announced in Open; IoT Hub announces the same (wire sheet §2.3).
pub const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// Largest command taken, bytes; IoT Hub allows 64 KiB (wire sheet §7).
pub const COMMAND_BYTES_MAX: u64 = 256 * 1024;
/// Method calls and answers of one device that may be on their way, 128 KiB at most each
/// (wire sheet §7).
pub const METHOD_CREDIT: u32 = 4;
/// Messages of the twin link the hub may send ahead of the device's socket: answers and changes, a
/// twin of some 70 KiB at most each (wire sheet §7).
pub const TWIN_CREDIT: u32 = 2;
/// Room for control frames in the write buffer, beyond the messages `connection_bytes_max` admits.
pub const WRITE_BUFFER_SLACK: usize = 256 * 1024;
/// Least charge of a message against `connection_bytes_max`: about what the smallest one holds
/// here until its outcome is in.
pub const MESSAGE_COST_MIN: usize = 256;
/// Pause before a session that ended by itself is begun again.
pub const SESSION_PAUSE: Duration = Duration::from_millis(500);
/// First pause of a link the hub detached or of a message it released.
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest such pause (wire sheet §6.2: the SDKs' 10 s).
pub const RETRY_MAX: Duration = Duration::from_secs(10);
/// First pause after a throttling answer (wire sheet §12.1, 9).
pub const THROTTLE_MIN: Duration = Duration::from_secs(5);
/// Longest pause after throttling answers.
pub const THROTTLE_MAX: Duration = Duration::from_secs(60);
/// Renewals of different connections are spread over this share of the token's life.
pub const RENEWAL_SPREAD: f64 = 0.05;
/// A token is not put again within this time because a link was refused.
pub const SUSPECT_MIN: Duration = Duration::from_secs(2);
/// A hub that has not answered a token or an attach for this long is told of, while the wait goes
/// on.
pub const SILENCE: Duration = Duration::from_secs(5);
/// So many failures of one device in a row, a second and a half at least, are told of.
pub const TRIED: u32 = 4;
/// A connection that the hub ends within this time of opening it was of no use.
pub const SOON: Duration = Duration::from_secs(10);
/// A token file is looked at this often.
pub const TOKEN_FILE_CHECK: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });
/// A token service that failed is not asked again within this time, by any connection.
pub const TOKEN_SERVICE_PAUSE: Duration = Duration::from_secs(1);
/// The wall clock is compared with the monotonic one this often.
pub const CLOCK_CHECK: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5000 });
/// A renewal decided this much later than planned is worth a warning.
pub const RENEWAL_LATE: Duration = Duration::from_secs(1);
/// The hub's words are cut to this many characters.
pub const TEXT_CHARS_MAX: usize = 200;

/// Exponential back-off with jitter: `min · 2^failures`, at most `max`, then 50 % to 100 % of it.
#[must_use]
pub fn backoff(min: Duration, max: Duration, failures: u32, roll: f64) -> Duration {
    let full = min.saturating_mul(1u32 << failures.min(20)).min(max);
    full.mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::backoff;
    use std::time::Duration;

    #[test]
    fn back_off_doubles_and_is_capped() {
        let at = |n| backoff(Duration::from_millis(100), Duration::from_secs(1), n, 1.0);
        assert_eq!(at(0), Duration::from_millis(100));
        assert_eq!(at(2), Duration::from_millis(400));
        assert_eq!(at(1000), Duration::from_secs(1));
    }

    #[test]
    fn jitter_takes_at_most_half() {
        let wait = backoff(Duration::from_secs(1), Duration::from_secs(8), 0, 0.0);
        assert_eq!(wait, Duration::from_millis(500));
    }
}
