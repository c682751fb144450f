//! From what the hub said to the [`RefusalCause`] it means; pure.

use super::RefusalCause;
use crate::hub::outcome::{self, says};

/// Of a refused `put-token` (wire sheet §3.3). `signed_here`: the token was signed a moment ago,
/// so that one which has ended speaks of a clock.
#[must_use]
pub fn of_status(status: i64, words: &str, signed_here: bool) -> RefusalCause {
    match status {
        401 if says(words, "expired") && signed_here => RefusalCause::ClockSkew,
        401 if says(words, "expired") => RefusalCause::TokenExpired,
        401 if says(words, "signature") => RefusalCause::WrongKey,
        _ if says(words, "maximum number of tokens") => RefusalCause::TokenLimit,
        400..=499 => RefusalCause::TokenRefused,
        _ => RefusalCause::CbsFailed,
    }
}

/// Of a refused attach, a detached link or a message that was not accepted; `label` is that of its
/// row in `outcome`. `None`: no refusal, but what happens to links and messages.
#[must_use]
pub fn of_error(label: &str, error: Option<&outcome::Cause>) -> Option<RefusalCause> {
    let words = error.map_or("", |error| error.description.as_str());
    Some(match label {
        "unauthorized" if says(words, "token invalid") || says(words, "expired") => {
            RefusalCause::TokenEnded
        }
        "unauthorized" => RefusalCause::NoDeviceConnect,
        "not_found" => RefusalCause::DeviceUnknown,
        "disabled" => RefusalCause::DeviceDisabled,
        "hub_suspended" => RefusalCause::Suspended,
        "quota_exceeded" => RefusalCause::Quota,
        "throttled" => RefusalCause::Throttled,
        _ => return None,
    })
}
