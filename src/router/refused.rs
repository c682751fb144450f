//! Messages the hub will never take, and the leave to acknowledge them all the same.
//!
//! MQTT 3.1.1 has no refusal for a PUBLISH but to close, and its device sends the message again. A
//! rule may say that such a message is discarded, or kept in a folder: whole, with its topic and
//! properties, one file each, bounded, readable by the gateway's user alone. A [`RefusedByRule`] is
//! made here and nowhere else, for the rule's word or for a file that is safely on the disk.
//! Neighbours: `listener::conn` acknowledges with it, `cli::refused` lists, sends again and drops.

mod record;
#[cfg(test)]
mod tests;

pub use record::{Record, digest};

use crate::auth::rules::OnRefused;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a file takes at least, bytes: a block of the file system.
const BLOCK: u64 = 4096;

/// The ending of a kept message's file.
const ENDING: &str = ".msg";

/// The beginning of a file that is being written.
const UNFINISHED: &str = ".tmp-";

/// Leave to acknowledge a message the hub did not take: the rule gave it up, or it is kept.
#[derive(Debug)]
pub struct RefusedByRule(());

/// The leave to acknowledge without keeping, where the rule says so.
#[must_use]
pub fn discarded(rule: OnRefused) -> Option<RefusedByRule> {
    (rule == OnRefused::Discard).then_some(RefusedByRule(()))
}

/// Why a message was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// `limits.refused_folder_bytes` is used up.
    #[error(
        "the folder of refused messages is full; empty it with `refused resend` or `refused \
         drop`, or raise limits.refused_folder_bytes"
    )]
    Full,
    /// The disk.
    #[error("the folder of refused messages cannot be written ({0})")]
    Io(#[from] io::Error),
}

/// The folder, bounded in bytes.
pub struct Folder {
    path: PathBuf,
    bytes_max: u64,
    used: Mutex<u64>,
    next: AtomicU64,
    /// The last message could not be written: that is told once.
    fails: AtomicBool,
}

impl Folder {
    /// Opens the folder, makes it if there is none, and takes away what was being written when a
    /// gateway was killed. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be made, read or written.
    pub fn open(path: &Path, bytes_max: usize) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            }
        }
        let probe = path.join(format!("{UNFINISHED}probe"));
        fs::write(&probe, b"")?;
        fs::remove_file(&probe)?;
        let used = Mutex::new(used(path)?);
        Ok(Self {
            path: path.to_owned(),
            bytes_max: bytes_max as u64,
            used,
            next: AtomicU64::new(0),
            fails: AtomicBool::new(false),
        })
    }

    /// Bytes in use, as files take them, and how many may be.
    #[must_use]
    pub fn uses(&self) -> (u64, u64) {
        (*self.used(), self.bytes_max)
    }

    /// Keeps a message; its name in the folder. When this returns it is on the disk. Blocks.
    ///
    /// # Errors
    /// When there is no room, or the disk refuses.
    pub fn keep(&self, record: &Record) -> Result<(RefusedByRule, String), KeepError> {
        let header = record.header();
        let cost = cost((header.len() + record.publish.payload.len()) as u64);
        let kept = self.reserve(cost).and_then(|()| {
            self.write(record, &header).map_err(|error| {
                let mut used = self.used();
                *used = used.saturating_sub(cost);
                error.into()
            })
        });
        let failed = kept.as_ref().err();
        let fails = self.fails.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(error) if !fails => tracing::warn!(
                name: "refused_not_kept",
                %error,
                "refused messages cannot be kept"
            ),
            None if fails => {
                tracing::info!(name: "refused_kept_again", "refused messages are kept again")
            }
            _ => {}
        }
        kept.map(|id| (RefusedByRule(()), id))
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, cost: u64) -> Result<(), KeepError> {
        let mut held = self.used();
        if *held + cost > self.bytes_max {
            // The command may have emptied it meanwhile.
            *held = used(&self.path)?;
        }
        if *held + cost > self.bytes_max {
            return Err(KeepError::Full);
        }
        *held += cost;
        Ok(())
    }

    fn write(&self, record: &Record, header: &[u8]) -> io::Result<String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % 1_000_000;
        let id = format!("{:013}-{number:06}", record.received.as_millis());
        let unfinished = self.path.join(format!("{UNFINISHED}{id}"));
        let written = self.write_whole(&unfinished, &id, header, &record.publish.payload);
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written.map(|()| id)
    }

    fn write_whole(
        &self,
        unfinished: &Path,
        id: &str,
        header: &[u8],
        body: &[u8],
    ) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(unfinished)?;
        file.write_all(header)?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(unfinished, file_of(&self.path, id))?;
        // The name is on the disk when the folder is.
        File::open(&self.path)?.sync_all()
    }
}

/// The names of the messages in a folder, oldest first.
///
/// # Errors
/// When it cannot be read.
pub fn ids(folder: &Path) -> io::Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(ENDING));
        ids.extend(id.filter(|id| is_id(id)).map(str::to_owned));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Reads a message back.
///
/// # Errors
/// A sentence, when there is none of this name or its file is damaged.
pub fn read(folder: &Path, id: &str) -> Result<Record, String> {
    if !is_id(id) {
        return Err("is no name of a refused message; `refused list` shows them".to_owned());
    }
    let file =
        fs::read(file_of(folder, id)).map_err(|error| format!("cannot be read ({error})"))?;
    Record::parse(&file)
}

/// Takes a message away.
///
/// # Errors
/// When it is not there, or the disk refuses.
pub fn remove(folder: &Path, id: &str) -> io::Result<()> {
    match is_id(id) {
        true => fs::remove_file(file_of(folder, id)),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Ours, so that no name leads out of the folder.
fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
}

fn file_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}{ENDING}"))
}

fn used(folder: &Path) -> io::Result<u64> {
    let mut used = 0;
    for entry in fs::read_dir(folder)? {
        match entry?.metadata() {
            Ok(found) if found.is_file() => used += cost(found.len()),
            Ok(_) => {}
            // Gone since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(used)
}

fn cost(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).max(1) * BLOCK
}
