//! Files that hold secrets: read with a bound, refused when others can read them.
//!
//! Symbolic links are followed, because mounted secrets (Kubernetes, systemd credentials) are
//! links; what counts is the mode of the file they lead to.

use crate::telemetry::log::capped;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// The largest secret read, bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads a secret: UTF-8 text, the line break at its end removed.
///
/// # Errors
/// A sentence with the path and the fix, when the file is missing, no regular file, readable by
/// others (unless `insecure_permissions`), empty, too large, or no UTF-8.
pub fn read(path: &Path, insecure_permissions: bool) -> Result<Zeroizing<String>, String> {
    let shown = shown(path);
    // Asked before opening: opening a pipe would wait for a writer.
    let kind = path
        .metadata()
        .map_err(|e| format!("{shown} cannot be read ({e}); correct the path or create it"))?;
    if !kind.is_file() {
        return Err(format!("{shown} is no regular file; name one"));
    }
    let file = File::open(path)
        .map_err(|e| format!("{shown} cannot be read ({e}); let the gateway's user read it"))?;
    let opened = file
        .metadata()
        .map_err(|e| format!("{shown} cannot be read ({e})"))?;
    if !insecure_permissions {
        refuse_exposed(path, &opened)?;
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("{shown} cannot be read ({e})"))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!(
            "{shown} is larger than 64 KiB; is it the right file?"
        ));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| format!("{shown} is no UTF-8 text; write the secret as text (base64)"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty; write the secret into it"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Refuses a secret file that others than its owner can read.
///
/// A group may read it only when the file belongs to somebody else: then the group is how this
/// process was given access (`fsGroup` in Kubernetes), and not an accident.
///
/// # Errors
/// A sentence with the path, the mode and the fix.
pub fn check_permissions(path: &Path) -> Result<(), String> {
    let metadata = path
        .metadata()
        .map_err(|e| format!("{} cannot be read ({e}); correct the path", shown(path)))?;
    refuse_exposed(path, &metadata)
}

fn refuse_exposed(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let mode = metadata.mode() & 0o777;
    let who = if mode & 0o006 != 0 {
        "everybody on this machine"
    } else if mode & 0o060 != 0 && own_uid() == Some(metadata.uid()) {
        "its group"
    } else {
        return Ok(());
    };
    Err(format!(
        "{} is open to {who} (mode {mode:04o}); run `chmod 600` on it, or set \
         insecure_permissions = true at the top of the file",
        shown(path)
    ))
}

/// The user this process runs as.
fn own_uid() -> Option<u32> {
    Path::new("/proc/self").metadata().ok().map(|m| m.uid())
}

fn shown(path: &Path) -> String {
    capped(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder(name: &str) -> std::path::PathBuf {
        let name = format!("iothub-gateway-secret-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn file(folder: &Path, name: &str, text: &str, mode: u32) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_the_secret() {
        let folder = folder("break");
        for (text, secret) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n", "abc"),
            ("a\n\n", "a\n"),
        ] {
            let path = file(&folder, "key", text, 0o600);
            assert_eq!(read(&path, false).unwrap().as_str(), secret);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_others_can_read_or_write_is_refused_with_the_fix() {
        let folder = folder("mode");
        for mode in [0o644, 0o604, 0o602, 0o640, 0o660] {
            let path = file(&folder, "key", "abc", mode);
            let message = read(&path, false).unwrap_err();
            assert!(message.contains("chmod 600"), "{message}");
            assert!(message.contains("insecure_permissions"), "{message}");
            assert!(!message.contains("abc"), "{message}");
            assert!(read(&path, true).is_ok());
            assert!(check_permissions(&path).is_err());
        }
        for mode in [0o600, 0o400] {
            assert!(read(&file(&folder, "ok", "abc", mode), false).is_ok());
            std::fs::remove_file(folder.join("ok")).unwrap();
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_is_judged_by_the_file_it_leads_to() {
        let folder = folder("link");
        let target = file(&folder, "target", "abc", 0o600);
        let link = folder.join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(read(&link, false).is_ok(), "a link's own mode is 0777");
        file(&folder, "target", "abc", 0o644);
        assert!(read(&link, false).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_no_secret_file_is_refused() {
        let folder = folder("kind");
        assert!(read(&folder, true).unwrap_err().contains("regular"));
        assert!(
            read(&folder.join("absent"), true)
                .unwrap_err()
                .contains("absent")
        );
        assert!(read(Path::new("/dev/zero"), true).is_err());
        let empty = file(&folder, "empty", "\n", 0o600);
        assert!(read(&empty, false).unwrap_err().contains("empty"));
        let large = file(&folder, "large", &"x".repeat(65 * 1024), 0o600);
        assert!(read(&large, false).unwrap_err().contains("64 KiB"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
