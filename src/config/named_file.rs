//! Files that somebody names: opened without ever waiting, refused when they are no regular file,
//! read with a bound.
//!
//! Opening a pipe waits for its writer, and reading a device may never end; whoever reloads would
//! hang with it. What is opened is asked twice: before, because opening some devices does
//! something, and afterwards, because it may have become another one in between.

use rustix::fs::OFlags;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// The largest rules file read, bytes: some million devices.
pub const RULES_BYTES_MAX: u64 = 256 * MIB;

/// The largest file of certificates or revocations read, bytes.
pub const PEM_BYTES_MAX: u64 = 64 * MIB;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Why a named file is not read. As text it goes after the file's name.
#[derive(Debug)]
pub enum Unreadable {
    /// It is missing, may not be read, or reading it failed.
    Failed(Error),
    /// A folder, pipe, socket or device.
    Irregular,
    /// Larger than this many bytes.
    Large(u64),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "cannot be read ({error})"),
            Self::Irregular => f.write_str("is no regular file; name one"),
            Self::Large(bytes) => {
                write!(f, "is larger than {}; is it the right file?", size(*bytes))
            }
        }
    }
}

impl Unreadable {
    /// The text, with what to do where it has no such words of its own.
    #[must_use]
    pub fn with_fix(&self, fix: &str) -> String {
        match self {
            Self::Failed(_) => format!("{self}; {fix}"),
            Self::Irregular | Self::Large(_) => self.to_string(),
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        GIB.. => format!("{} GiB", bytes / GIB),
        MIB.. => format!("{} MiB", bytes / MIB),
        _ => format!("{} KiB", bytes / KIB),
    }
}

/// Opens a regular file for reading. Symbolic links are followed.
///
/// # Errors
/// When it is missing, may not be read, or is no regular file.
pub fn open(path: &Path) -> Result<File, Unreadable> {
    let regular = |metadata: std::io::Result<Metadata>| match metadata {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(Unreadable::Irregular),
        Err(error) => Err(Unreadable::Failed(error)),
    };
    regular(path.metadata())?;
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(Unreadable::Failed)?;
    regular(file.metadata())?;
    Ok(file)
}

/// Reads a regular file of at most `bytes_max` whole.
///
/// # Errors
/// As [`open`], and when it is larger.
pub fn read(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    take(open(path)?, bytes_max)
}

/// Reads an open file of at most `bytes_max` whole.
///
/// # Errors
/// When it is larger, or cannot be read.
pub fn take(file: File, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    // Room at once, so that no copy of a key is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::new());
    let room = usize::try_from(length.min(bytes_max) + 1).unwrap_or_default();
    bytes.reserve_exact(room);
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(Unreadable::Failed)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(Unreadable::Large(bytes_max)),
        false => Ok(bytes),
    }
}

/// Whether `path` is one of this process's own streams, such as `/dev/stdin` or `/dev/fd/63`.
#[must_use]
pub fn is_stream(path: &Path) -> bool {
    path == Path::new("/dev/stdin")
        || ["/dev/fd", "/proc/self/fd"]
            .iter()
            .any(|at| path.starts_with(at))
}

#[cfg(test)]
mod tests {
    use super::{Unreadable, open, read};
    use rustix::fs::{CWD, Mode, mkfifoat};
    use std::path::Path;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = std::env::temp_dir().join(format!("iothub-named-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (pipe, link, file) = (
            folder.join("pipe"),
            folder.join("link"),
            folder.join("file"),
        );
        mkfifoat(CWD, &pipe, Mode::RUSR).unwrap();
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        std::fs::write(&file, vec![b'x'; 2048]).unwrap();
        for path in [&*pipe, &*link, &*folder, Path::new("/dev/zero")] {
            let refused = open(path).unwrap_err();
            assert!(matches!(refused, Unreadable::Irregular), "{path:?}");
        }
        let large = read(&file, 1024).unwrap_err().to_string();
        assert_eq!(large, "is larger than 1 KiB; is it the right file?");
        assert_eq!(read(&file, 2048).unwrap().len(), 2048);
        let missing = read(&folder.join("no"), 1).unwrap_err();
        assert!(missing.with_fix("create it").ends_with("; create it"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
