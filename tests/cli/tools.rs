//! `psk`, `password` and `token`: what they refuse, and that no key is shown doing so.

use crate::folder::Folder;

const KEY: &str = "00112233445566778899aabbccddeeff";

#[test]
fn each_planted_mistake_of_a_psk_file_is_named_with_file_and_line_and_no_key() {
    let folder = Folder::new();
    let short = "00112233";
    let file = format!(
        "# fleet\r\ngood:{KEY}\r\ngood:{}\r\nshort:{short}\nshared:hex:{KEY}\nzero:{}\n\
         both:base64:{KEY}\nno-key:\nnone\nbad id:{KEY}\nnul\0:{KEY}\nempty:hex:\n",
        KEY.replace('0', "1"),
        "00".repeat(16),
    );
    folder.write("fleet.psk", &file);
    let done = folder.sh("iothub-gateway psk lint fleet.psk");
    assert_eq!(done.code, 64, "{done:?}");
    for expected in [
        "fleet.psk:3: identity is there twice; first in line 2",
        "fleet.psk:4: the key is shorter than 16 bytes",
        "fleet.psk:5: the key is also the one of line 2",
        "fleet.psk:6: the key is all zeros",
        "fleet.psk:7: the key after `base64:` is also hex",
        "fleet.psk:8: no key",
        "fleet.psk:9: no colon",
        "fleet.psk:10: the identity is no device id",
        "fleet.psk:11: the line holds a NUL",
        "fleet.psk:12: the key is shorter than 16 bytes",
    ] {
        assert!(done.err.contains(expected), "{expected}\n{}", done.err);
    }
    assert!(
        !done.err.contains(KEY) && !done.err.contains(short),
        "{}",
        done.err
    );
}

#[test]
fn a_number_that_is_none_is_refused_in_words() {
    let folder = Folder::new();
    for (arguments, words) in [
        (
            "psk generate --count many",
            "'many' for '--count <COUNT>': it must be a whole number",
        ),
        ("psk generate --count 99999999999", "99999999999"),
        ("load --port 70000", "70000"),
        ("password --memory ''", "it must be a whole number"),
    ] {
        let done = folder.sh(&format!("iothub-gateway {arguments}"));
        assert_eq!(done.code, 64, "{done:?}");
        assert!(done.err.contains(words), "{words}: {}", done.err);
        for theirs in ["digit", "integer", "target type"] {
            assert!(!done.err.contains(theirs), "{}", done.err);
        }
    }
}

#[test]
fn an_empty_a_missing_and_a_binary_file_are_told_apart() {
    let folder = Folder::new();
    folder.write("empty.psk", "\u{feff}# nobody\n\n");
    std::fs::write(folder.path("binary.psk"), b"a:\xff\xfe").expect("written");
    for (file, words, code) in [
        ("empty.psk", "names no identity", 64),
        ("missing.psk", "cannot be read", 66),
        ("binary.psk", "binary.psk:1: is not UTF-8", 64),
    ] {
        for command in ["lint", "import"] {
            let done = folder.sh(&format!("iothub-gateway psk {command} {file}"));
            assert_eq!(done.code, code, "{done:?}");
            let named = format!("{file}:");
            assert!(
                done.err.contains(&named) && done.err.contains(words),
                "{}",
                done.err
            );
            assert_eq!(done.out, "");
        }
    }
}

#[test]
fn what_generate_makes_is_served_and_no_two_keys_are_alike() {
    let folder = Folder::new();
    let done = folder.sh("iothub-gateway psk generate --prefix d- --count 50 --bytes 16");
    let keys: std::collections::HashSet<_> = done
        .out
        .lines()
        .filter_map(|l| l.split(':').nth(1))
        .collect();
    assert_eq!(keys.len(), 50);
    assert!(done.out.starts_with("d-0:") && keys.iter().all(|key| key.len() == 32));
    let done = folder.sh("iothub-gateway psk generate 'a:b'");
    assert_eq!(done.code, 64);
    let done = folder.sh("iothub-gateway psk generate a --count 2");
    assert_eq!((done.code, done.out.as_str()), (64, ""), "{}", done.err);
    let done = folder.sh("iothub-gateway psk generate --count 100000 | head -1");
    assert_eq!(
        (done.code, done.err.as_str()),
        (0, ""),
        "a closed pipe is no error"
    );
}

#[test]
fn a_password_hash_is_one_check_takes() {
    let folder = Folder::new();
    let made = folder.sh("printf 'open sesame' | iothub-gateway password --memory 64 --passes 1");
    assert!(
        made.out.starts_with("$argon2id$v=19$m=64,t=1,p=1$"),
        "{made:?}"
    );
    let again = folder.sh("printf 'open sesame' | iothub-gateway password --memory 64 --passes 1");
    assert_ne!(made.out, again.out, "each hash has a salt of its own");
    folder.write("valve.hash", &made.out);
    folder.write(
        "rules.toml",
        "[[device]]\nid = \"v\"\npassword = { username = \"v\", hash = \"${file:valve.hash}\" }\n",
    );
    assert_eq!(folder.check("--as password:v").code, 0);
    for (input, words) in [
        ("printf ''", "empty"),
        ("head -c 2000 /dev/zero", "1024 bytes"),
    ] {
        let done = folder.sh(&format!("{input} | iothub-gateway password"));
        assert_eq!(done.code, 64);
        assert!(done.err.contains(words), "{}", done.err);
    }
    let done = folder.sh("echo x | iothub-gateway password --memory 999999");
    assert_eq!(done.code, 64);
    assert!(
        done.err.contains("above what the gateway takes"),
        "{}",
        done.err
    );
}

#[test]
fn a_token_is_read_from_a_pipe_and_a_damaged_one_refused_without_its_signature() {
    let folder = Folder::new();
    folder.write("key", "NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=\n");
    let mint = "iothub-gateway token mint --host h.example --device a --key-file key --ttl 7d";
    let done = folder.sh(&format!("{mint} | iothub-gateway token read"));
    assert!(
        done.out.contains("scope   h.example/devices/a\n"),
        "{done:?}"
    );
    assert!(
        done.out.contains("(in 6 d 23 h)") || done.out.contains("(in 7 d)"),
        "{done:?}"
    );
    let done =
        folder.sh("echo 'SharedAccessSignature sr=a&sig=c2VjcmV0' | iothub-gateway token read");
    assert_eq!(done.code, 64);
    assert!(!done.err.contains("c2VjcmV0"), "{}", done.err);
    let done =
        folder.sh("KEY='not base64' iothub-gateway token mint --host h --device a --key-env KEY");
    assert_eq!(
        (done.code, done.err.as_str()),
        (64, "token: the key is not base64\n")
    );
}
