//! The folder on a real disk.

use super::{Folder, KeepError, Record, ids, read, remove};
use crate::mqtt::packet::{MessageProperties, PacketId, Publish, QoS};
use crate::runtime::clock::Unix;
use bytes::Bytes;
use std::fs;
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("refused-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn record(payload: &[u8]) -> Record {
    Record {
        client_id: "dev/module".to_owned(),
        rule: "device dev".to_owned(),
        reason: "bag_escape".to_owned(),
        text: "a \"quoted\"\nsentence".to_owned(),
        received: Unix::from_secs(1_900_000_000) + Duration::from_millis(7),
        publish: Publish {
            topic: "devices/dev/messages/events/a=%ZZ&\u{7f}é".into(),
            payload: Bytes::copy_from_slice(payload),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            packet_id: Some(PacketId(NonZeroU16::MIN)),
            properties: Some(Box::new(MessageProperties {
                content_type: Some("text/plain".into()),
                correlation_data: Some(Bytes::from_static(&[0, 255])),
                user: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
                ..MessageProperties::default()
            })),
        },
    }
}

#[test]
fn a_message_comes_back_whole_and_only_its_owner_may_read_it() {
    let path = scratch("whole");
    let folder = Folder::open(&path, 1 << 20).unwrap();
    for payload in [&b"21.5\n\0\xff"[..], b"", &[b'\n'; 5000]] {
        let kept = record(payload);
        let (_, id) = folder.keep(&kept).unwrap();
        assert_eq!(read(&path, &id), Ok(kept));
        let mode = fs::metadata(path.join(format!("{id}.msg"))).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(ids(&path).unwrap().len(), 3);
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn the_folder_is_bounded_and_has_room_again_when_it_was_emptied() {
    let path = scratch("bounded");
    let folder = Folder::open(&path, 3 * 4096).unwrap();
    for _ in 0..3 {
        folder.keep(&record(b"x")).unwrap();
    }
    assert!(matches!(folder.keep(&record(b"x")), Err(KeepError::Full)));
    assert_eq!(folder.uses(), (3 * 4096, 3 * 4096));
    // By another process.
    remove(&path, &ids(&path).unwrap()[0]).unwrap();
    folder.keep(&record(b"x")).unwrap();
    let too_large = record(&[b'x'; 3 * 4096]);
    assert!(matches!(folder.keep(&too_large), Err(KeepError::Full)));
    drop(folder);
    let again = Folder::open(&path, 3 * 4096).unwrap();
    assert!(matches!(again.keep(&record(b"x")), Err(KeepError::Full)));
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn what_was_half_written_is_taken_away_and_what_is_damaged_is_named() {
    let path = scratch("damaged");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(".tmp-1-1"), b"half").unwrap();
    fs::write(path.join("README"), b"not ours").unwrap();
    let folder = Folder::open(&path, 1 << 20).unwrap();
    assert!(!path.join(".tmp-1-1").exists());
    assert_eq!(ids(&path).unwrap(), Vec::<String>::new());
    let (_, id) = folder.keep(&record(b"whole")).unwrap();
    let file = path.join(format!("{id}.msg"));
    let whole = fs::read(&file).unwrap();
    for cut in 0..whole.len() {
        fs::write(&file, &whole[..cut]).unwrap();
        assert!(read(&path, &id).unwrap_err().contains("damaged"), "{cut}");
    }
    for name in ["../README", "README", "", "1/2", "9"] {
        assert!(read(&path, name).is_err(), "{name}");
        assert!(remove(&path, name).is_err(), "{name}");
    }
    assert!(path.join("README").exists());
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_disk_that_refuses_is_an_error_and_costs_no_room() {
    let path = scratch("gone");
    let folder = Folder::open(&path, 1 << 20).unwrap();
    fs::remove_dir_all(&path).unwrap();
    assert!(matches!(folder.keep(&record(b"x")), Err(KeepError::Io(_))));
    assert_eq!(folder.uses().0, 0);
}

#[test]
fn a_folder_that_cannot_be_written_is_warned_of_once_and_so_is_its_end() {
    let path = scratch("lost");
    let folder = Folder::open(&path, 1 << 20).unwrap();
    let log = scratch("lost-log");
    let file = Mutex::new(fs::File::create(&log).unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(file);
    tracing::subscriber::with_default(subscriber.with_ansi(false).finish(), || {
        fs::remove_dir_all(&path).unwrap();
        for _ in 0..3 {
            assert!(matches!(folder.keep(&record(b"x")), Err(KeepError::Io(_))));
        }
        fs::create_dir(&path).unwrap();
        folder.keep(&record(b"x")).unwrap();
    });
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(log).unwrap();
    let told: Vec<_> = text.lines().map(|line| line.contains("WARN")).collect();
    assert_eq!(told, [true, false], "{text}");
    assert!(text.contains("cannot be written"), "{text}");
    fs::remove_dir_all(path).unwrap();
}
