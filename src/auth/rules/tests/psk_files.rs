//! PSK files and keys.

use super::*;

#[test]
fn psk_files_report_every_line_and_refuse_emptiness() {
    let file = |name: &str| format!("[[psk_file]]\npath = \"{name}\"\n");
    let found = problems(&file("bad.psk"));
    assert!(
        found.contains("etc/bad.psk:1: the key is shorter"),
        "{found}"
    );
    assert!(found.contains("etc/bad.psk:2: no colon"), "{found}");
    refused(&file("empty.psk"), "names no identity");
    refused(&file("cut.psk"), "etc/cut.psk:2: is not UTF-8");
    refused(
        &file("gone.psk"),
        "etc/rules.toml:2: psk_file[0].path: etc/gone.psk: no such file",
    );
    refused(
        &format!("{}{}", file("fleet.psk"), file("fleet.psk")),
        "etc/fleet.psk:1: load-1 is there twice; first in etc/fleet.psk:1",
    );
    refused(
        &format!("{}{}", file("fleet.psk"), file("twice.psk")),
        "etc/twice.psk:4: load-1 is there twice; first in etc/fleet.psk:1",
    );
    refused(
        &file("twice.psk"),
        "etc/twice.psk:5: load-2 is there twice; first in etc/twice.psk:3",
    );
    let set = parse(&file("fleet.psk")).unwrap();
    assert_eq!(set.counts().psk_identities, 1);
    assert_eq!(set.psk(b"load-1").unwrap().key[..2], [0x00, 0x11]);
}

#[test]
fn short_keys_are_taken_where_min_key_bytes_says_so_and_counted() {
    let file = |more: &str| format!("[[psk_file]]\npath = \"short.psk\"\n{more}");
    let found = problems(&file(""));
    assert_eq!(found.matches("shorter than 16 bytes").count(), 2, "{found}");
    refused(
        &file("min_key_bytes = 9"),
        "etc/short.psk:1: the key is shorter",
    );
    for bad in ["3", "0", "257", "-1", "\"8\"", "4.5"] {
        refused(
            &file(&format!("min_key_bytes = {bad}")),
            "min_key_bytes: must be ",
        );
    }
    let set = parse(&file("min_key_bytes = 8")).unwrap();
    let counts = set.counts();
    assert_eq!((counts.psk_identities, counts.psk_short_keys), (3, 2));
    assert!(
        counts
            .short_keys()
            .unwrap()
            .starts_with("2 PSK identities have")
    );
    assert_eq!(set.psk(b"load-1").unwrap().key, [1, 2, 3, 4, 5, 6, 7, 8]);

    let entry = |more: &str| device("a", &format!("psk = {{ key = \"raw:abcd\"{more} }}"));
    refused(
        &entry(""),
        "device[0].psk.key: the key is shorter than 16 bytes",
    );
    let set = parse(&entry(", min_key_bytes = 4")).unwrap();
    assert_eq!(set.counts().psk_short_keys, 1);
    assert!(parse(&psk("a")).unwrap().counts().short_keys().is_none());
}

#[test]
fn a_key_s_hash_is_said_by_its_entry_or_file() {
    let entry = |more: &str| device("a", &format!("psk = {{ key = \"{KEY}\"{more} }}"));
    let hash = |text: &str, id: &[u8]| parse(text).unwrap().psk(id).unwrap().hash;
    assert_eq!(hash(&entry(""), b"a"), PskHash::Sha256);
    assert_eq!(hash(&entry(", hash = \"sha384\""), b"a"), PskHash::Sha384);
    let file = "[[psk_file]]\npath = \"fleet.psk\"\nhash = \"sha384\"\n";
    assert_eq!(hash(file, b"load-1"), PskHash::Sha384);
    refused(
        &entry(", hash = \"md5\""),
        "psk.hash: must be \"sha256\" or \"sha384\"",
    );
}

/// A set of one PSK file of these bytes.
fn of_file(file: &str) -> Result<RuleSet, String> {
    let resolvers = Resolvers {
        read: &read,
        read_secret: &|_| Ok(file.as_bytes().to_vec()),
        secret: &secret,
    };
    let text = RulesText {
        name: "etc/rules.toml",
        text: "[[psk_file]]\npath = \"f.psk\"\n",
    };
    let set = RuleSet::parse(&[text], &resolvers);
    set.map_err(|found| {
        found
            .iter()
            .map(|p| format!("{}: {}\n", p.file, p.message))
            .collect()
    })
}

#[test]
fn a_last_line_that_was_cut_off_is_refused_and_one_without_a_newline_is_told() {
    let key = "00".repeat(15) + "112233445566778899aabbccddeeff0011";
    let whole = format!("a:{key}\nb:{key} next=hex:{}\n", key.replace('1', "2"));
    let before = of_file(&whole).unwrap();
    assert_eq!(before.open_ends().count(), 0);
    let mut taken = 0;
    for end in 1..whole.len() {
        match of_file(&whole[..end]) {
            Err(_) => {}
            // Between two lines, or one that could be whole were it not for what was before.
            Ok(set) if set.open_ends().count() == 0 => {
                assert_eq!(end, 3 + key.len(), "{}", &whole[..end]);
                taken += 1;
            }
            Ok(set) => {
                let cut = set.cut_since(&before);
                let is_whole = end == 2 + key.len() || end == whole.len() - 1;
                assert_eq!(cut.is_empty(), is_whole, "{}", &whole[..end]);
            }
        }
    }
    assert_eq!(taken, 1);
    let found = of_file(&format!("a:{key}\nb:{}", &key[..40])).unwrap_err();
    assert!(
        found.starts_with("etc/f.psk:2: the file ends in the middle"),
        "{found}"
    );
    // An honest file of another tool.
    let set = of_file(&format!("a:{key}\nb:{key}")).unwrap();
    assert_eq!(
        set.open_ends().map(|(place, _)| place).collect::<Vec<_>>(),
        ["etc/f.psk:2"]
    );
    assert!(set.cut_since(&set).is_empty());
    assert_eq!(
        of_file(&format!("a:{key}\n# end"))
            .unwrap()
            .open_ends()
            .count(),
        0
    );
}
