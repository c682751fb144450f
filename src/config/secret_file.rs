//! Files that hold secrets: read with a bound, refused when others can read them.
//!
//! One rule for all of them: a file may be read by its owner, by the gateway's user, and by a
//! group the gateway's process belongs to, and written by its owner only. That admits `chmod
//! 0600`, Kubernetes' `defaultMode: 0440` with an `fsGroup`, and systemd's `LoadCredential`, which
//! gives the service's user a place in the file's access control list. Symbolic links are
//! followed, because mounted secrets are links; what counts is the file they lead to.

use super::named_file::{self, Unreadable};
use crate::telemetry::log::capped;
use rustix::fs::fgetxattr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// The largest secret read, bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The largest file of many secrets, bytes: some ten million identities.
const MANY_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The largest access control list read, bytes; a larger one counts as unreadable.
const ACL_BYTES_MAX: usize = 4 * 1024;

/// Reads a secret: UTF-8 text, the line break at its end removed.
///
/// # Errors
/// A sentence with the path and the fix, when the file is missing, no regular file, readable by
/// others (unless `insecure_permissions`), empty, too large, or no UTF-8.
pub fn read(path: &Path, insecure_permissions: bool) -> Result<Zeroizing<String>, String> {
    let shown = shown(path);
    let file = open(path, insecure_permissions)?;
    let bytes = named_file::take(file, SECRET_BYTES_MAX).map_err(|e| format!("{shown} {e}"))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| format!("{shown} is no UTF-8 text; write the secret as text (base64)"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty; write the secret into it"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Reads a file of many secrets whole; who else may read it is [`check_permissions`]' matter.
///
/// # Errors
/// A sentence with the path and the fix, when the file is missing, no regular file, or larger than
/// 1 GiB.
pub fn read_all(path: &Path) -> Result<Vec<u8>, String> {
    let file = open(path, true)?;
    let bytes = named_file::take(file, MANY_BYTES_MAX);
    let mut bytes = bytes.map_err(|e| format!("{} {e}", shown(path)))?;
    Ok(std::mem::take(&mut *bytes))
}

/// Opens a regular file that holds secrets.
///
/// # Errors
/// A sentence with the path and the fix, when the file is missing, no regular file, or readable
/// by others (unless `insecure_permissions`).
pub fn open(path: &Path, insecure_permissions: bool) -> Result<File, String> {
    let shown = shown(path);
    let file = named_file::open(path).map_err(|unreadable| {
        let fix = match &unreadable {
            Unreadable::Failed(error) if error.kind() == ErrorKind::PermissionDenied => {
                "let the gateway's user read it"
            }
            _ => "correct the path or create it",
        };
        format!("{shown} {}", unreadable.with_fix(fix))
    })?;
    if !insecure_permissions {
        let readers = Readers::of(&file).map_err(|e| format!("{shown} cannot be read ({e})"))?;
        readers
            .judge(&Process::own())
            .map_err(|why| format!("{shown} {why}"))?;
    }
    Ok(file)
}

/// Refuses a secret file that others can read.
///
/// # Errors
/// As [`open`].
pub fn check_permissions(path: &Path) -> Result<(), String> {
    open(path, false).map(drop)
}

/// Who may do what with a file.
#[derive(Clone, Debug, Default)]
struct Readers {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Whether an access control list decides for groups, instead of the mode's middle digit.
    listed: bool,
    /// Users and groups of the list that may read or write.
    users: Vec<u32>,
    groups: Vec<u32>,
    /// Whether somebody of the list may write.
    list_writes: bool,
}

/// Whom the process reads as.
#[derive(Clone, Debug)]
struct Process {
    uid: u32,
    groups: Vec<u32>,
}

impl Process {
    fn own() -> Self {
        // A process in more groups than the system can tell is judged by its first one.
        let mut groups = rustix::process::getgroups().unwrap_or_default();
        groups.push(rustix::process::getegid());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            groups: groups.into_iter().map(|gid| gid.as_raw()).collect(),
        }
    }
}

impl Readers {
    fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let mut readers = Self {
            mode: metadata.mode() & 0o777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            ..Self::default()
        };
        let mut list = [0; ACL_BYTES_MAX];
        match fgetxattr(file, "system.posix_acl_access", &mut list[..]) {
            Ok(length) => readers.read_list(&list[..length]),
            Err(error) if error == rustix::io::Errno::RANGE => return Err(error.into()),
            Err(_) => {} // no list, or a file system without them
        }
        Ok(readers)
    }

    /// Reads `system.posix_acl_access` (acl(5); the layout of linux/posix_acl_xattr.h): a version,
    /// then tag, permissions and id of each entry, little-endian.
    fn read_list(&mut self, list: &[u8]) {
        const USER: u16 = 0x02;
        const GROUP_OWNER: u16 = 0x04;
        const GROUP: u16 = 0x08;
        const MASK: u16 = 0x10;
        let entries: Vec<(u16, u16, u32)> = list
            .get(4..)
            .unwrap_or_default()
            .chunks_exact(8)
            .map(|e| {
                let tag = u16::from_le_bytes([e[0], e[1]]);
                let rights = u16::from_le_bytes([e[2], e[3]]);
                (tag, rights, u32::from_le_bytes([e[4], e[5], e[6], e[7]]))
            })
            .collect();
        let mask = entries.iter().find(|(tag, ..)| *tag == MASK);
        let mask = mask.map_or(0o7, |(_, rights, _)| *rights);
        for (tag, rights, id) in entries {
            let rights = rights & mask & 0o6;
            if rights == 0 {
                continue;
            }
            match tag {
                USER => self.users.push(id),
                GROUP_OWNER => self.groups.push(self.gid),
                GROUP => self.groups.push(id),
                _ => continue,
            }
            self.list_writes |= rights & 0o2 != 0;
        }
        self.listed = true;
    }

    /// Says who may read or write and must not, and how to mend it.
    fn judge(&self, process: &Process) -> Result<(), String> {
        let mode = self.mode;
        let ours = |gid: &u32| process.groups.contains(gid);
        let by_mode = [self.gid];
        let (groups, group_writes): (&[u32], bool) = match (self.listed, mode & 0o060) {
            (true, _) => (&self.groups, self.list_writes),
            (false, 0) => (&[], false),
            (false, rights) => (&by_mode, rights & 0o020 != 0),
        };
        let strange_user = |uid: &&u32| **uid != process.uid && **uid != 0 && **uid != self.uid;
        let (who, fix) = if mode & 0o006 != 0 {
            (
                "everybody on this machine".to_owned(),
                "in Kubernetes set defaultMode: 0440 on the volume and an fsGroup on the pod, \
                 with systemd use LoadCredential",
            )
        } else if let Some(gid) = groups.iter().find(|gid| !ours(gid)) {
            (
                format!("group {gid}, to which the gateway does not belong"),
                "in Kubernetes set an fsGroup on the pod, with systemd use LoadCredential",
            )
        } else if group_writes {
            (
                "its group, which may write it".to_owned(),
                "let a group read only: `chmod 440`, in Kubernetes defaultMode: 0440",
            )
        } else if let Some(uid) = self.users.iter().find(strange_user) {
            (
                format!("user {uid}, by its access control list"),
                "or remove the list: `setfacl -b`",
            )
        } else {
            return Ok(());
        };
        Err(format!(
            "is open to {who} (mode {mode:04o}); run `chmod 600` on it; {fix}; or set \
             insecure_permissions = true at the top of the configuration file"
        ))
    }
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

    fn readers(mode: u32, uid: u32, gid: u32) -> Readers {
        Readers {
            mode,
            uid,
            gid,
            ..Readers::default()
        }
    }

    /// The service runs as user 1000 with group 1000 and the pod's 2000.
    fn service() -> Process {
        Process {
            uid: 1000,
            groups: vec![1000, 2000],
        }
    }

    #[test]
    fn a_group_may_read_when_it_is_the_services_own() {
        let own = readers(0o600, 1000, 1000);
        let kubernetes = readers(0o440, 0, 2000);
        let as_root = Process {
            uid: 0,
            groups: vec![0, 2000],
        };
        assert!(own.judge(&service()).is_ok());
        assert!(kubernetes.judge(&service()).is_ok());
        assert!(kubernetes.judge(&as_root).is_ok(), "root with an fsGroup");
        assert!(readers(0o640, 1000, 1000).judge(&service()).is_ok());
        assert!(readers(0o400, 0, 0).judge(&service()).is_ok());
    }

    #[test]
    fn every_other_reader_is_refused_with_a_fix_for_each_world() {
        let mut named = readers(0o440, 0, 1000);
        named.listed = true;
        named.users = vec![1000, 1001];
        for (file, who, fix) in [
            (readers(0o444, 0, 2000), "everybody", "fsGroup"),
            (readers(0o602, 1000, 1000), "everybody", "defaultMode: 0440"),
            (readers(0o440, 0, 0), "group 0", "fsGroup"),
            (readers(0o440, 1000, 100), "group 100", "LoadCredential"),
            (readers(0o660, 1000, 1000), "may write", "chmod 440"),
            (named, "user 1001", "setfacl"),
        ] {
            let message = file.judge(&service()).unwrap_err();
            for part in [who, fix, "chmod 600", "insecure_permissions"] {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
    }

    #[test]
    fn a_credential_of_systemd_is_taken_and_a_wider_list_is_not() {
        // As systemd makes it: root may read, so may user 1000, the group may not.
        let entry = |tag: u16, rights: u16, id: u32| {
            let mut bytes = Vec::from(tag.to_le_bytes());
            bytes.extend(rights.to_le_bytes());
            bytes.extend(id.to_le_bytes());
            bytes
        };
        let list = |entries: &[Vec<u8>]| [vec![2, 0, 0, 0], entries.concat()].concat();
        let systemd = [
            entry(0x01, 4, u32::MAX),
            entry(0x02, 4, 1000),
            entry(0x04, 0, u32::MAX),
            entry(0x10, 4, u32::MAX),
            entry(0x20, 0, u32::MAX),
        ];
        let judge = |entries: &[Vec<u8>]| {
            let mut file = readers(0o440, 0, 0);
            file.read_list(&list(entries));
            file.judge(&service())
        };
        assert!(judge(&systemd).is_ok());
        let mut group = systemd.to_vec();
        group[2] = entry(0x04, 4, u32::MAX);
        assert!(judge(&group).unwrap_err().contains("group 0"));
        let mut strange = systemd.to_vec();
        strange.push(entry(0x08, 4, 50));
        assert!(judge(&strange).unwrap_err().contains("group 50"));
        let mut masked = strange;
        masked[3] = entry(0x10, 0, u32::MAX);
        assert!(judge(&masked).is_ok(), "the mask takes it away");
    }

    #[test]
    fn a_mount_of_kubernetes_is_read_through_its_links() {
        let folder = folder("mount");
        let version = folder.join("..2026_01_01");
        std::fs::create_dir_all(&version).unwrap();
        let _ = std::fs::remove_file(folder.join("..data"));
        let _ = std::fs::remove_file(folder.join("key"));
        let _ = std::fs::remove_file(version.join("key"));
        file(&version, "key", "abc", 0o440);
        std::os::unix::fs::symlink("..2026_01_01", folder.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/key", folder.join("key")).unwrap();
        assert_eq!(read(&folder.join("key"), false).unwrap().as_str(), "abc");
        std::fs::remove_dir_all(folder).unwrap();
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
        for mode in [0o644, 0o604, 0o602, 0o660] {
            let path = file(&folder, "key", "abc", mode);
            let message = read(&path, false).unwrap_err();
            assert!(message.contains("chmod 600"), "{message}");
            assert!(message.contains("insecure_permissions"), "{message}");
            assert!(!message.contains("abc"), "{message}");
            assert!(read(&path, true).is_ok());
            assert!(check_permissions(&path).is_err());
        }
        for mode in [0o600, 0o400, 0o440, 0o640] {
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
