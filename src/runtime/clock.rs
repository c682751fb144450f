//! Time as values. The only module that reads the system's clocks.
//!
//! Decision code receives [`Mono`] or [`Unix`] as an argument, so tests turn the clock by hand.
//! Durations are always `std::time::Duration`; nothing here is a bare number.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// A point on the monotonic clock: the time since the process first asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(Duration);

/// A point on the wall clock: the time since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unix(Duration);

/// Who is asked instead of the system's monotonic clock.
static READER: OnceLock<fn() -> Mono> = OnceLock::new();

/// Asks `reader` instead of the system's monotonic clock from here on, in the whole process: for
/// simulations, whose time does not pass by itself. The first one who says so counts.
pub fn replace(reader: fn() -> Mono) {
    READER.get_or_init(|| reader);
}

/// Reads the monotonic clock.
#[must_use]
pub fn mono() -> Mono {
    if let Some(reader) = READER.get() {
        return reader();
    }
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods)] // the one reader of the monotonic clock
    let now = Instant::now();
    Mono(now.saturating_duration_since(*START.get_or_init(|| now)))
}

/// Reads the wall clock. A clock set before 1970 reads as 1970.
#[must_use]
pub fn unix() -> Unix {
    #[allow(clippy::disallowed_methods)] // the one reader of the wall clock
    let now = SystemTime::now();
    Unix(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}

impl Mono {
    /// The point `since_start` after the clock's start; for tests and tables.
    #[must_use]
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// A point so far away that it is never reached.
    #[must_use]
    pub const fn far_future() -> Self {
        Self(Duration::from_secs(u32::MAX as u64))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}

impl Unix {
    /// The point `seconds` after 1970-01-01 UTC.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole seconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0.as_secs() * 1000 + self.0.subsec_millis() as u64
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Unix {
    /// RFC 3339 in UTC, to the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.as_secs()).ok();
        match seconds.and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok()) {
            Some(at) => {
                let ((year, month, day), (hour, minute, second)) =
                    (at.to_calendar_date(), at.to_hms());
                let month = u8::from(month);
                write!(
                    f,
                    "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
                )
            }
            None => write!(f, "{} s after 1970", self.as_secs()),
        }
    }
}

impl Add<Duration> for Unix {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}
