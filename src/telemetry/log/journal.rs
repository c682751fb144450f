//! systemd's journal at the other end of standard error: it takes the priority of a line from a
//! prefix, `<N>` (sd-daemon(3)), and cuts it off.

use std::io;
use std::os::fd::AsFd as _;
use tracing::Level;

/// Whether standard error leads to the journal: systemd names the stream it opened by device and
/// inode (systemd.exec(5), `JOURNAL_STREAM`). One that was redirected since is another.
pub(super) fn is_standard_error() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stat = rustix::fs::fstat(io::stderr().as_fd());
    stat.is_ok_and(|stat| names(&named, stat.st_dev, stat.st_ino))
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(dev, ino)| {
        dev.parse() == Ok(device) && ino.parse() == Ok(inode) // both decimal
    })
}

/// The prefix of a line of this level: syslog's severities.
pub(super) const fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_stream_is_the_one_of_this_device_and_inode() {
        assert!(names("9:1234", 9, 1234));
        for other in ["", "9", "9:1235", "8:1234", "9:1234:1", ":", "x:y"] {
            assert!(!names(other, 9, 1234), "{other}");
        }
    }
}
