//! Completions are asked by a shell, and man pages rendered.

use crate::folder::Folder;

/// What bash offers after these words; the last one is being typed.
fn offers(folder: &Folder, words: &str) -> Vec<String> {
    folder.write("ask.bash", ASK);
    let done = folder.sh(&format!("bash ask.bash {words}"));
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{words}");
    done.out.lines().map(str::to_owned).collect()
}

/// Loads the completions as a package's are, and does what bash does when Tab is pressed.
const ASK: &str = r#"
source <(iothub-gateway completions bash)
function=$(complete -p iothub-gateway | sed 's/.* -F \([^ ]*\) .*/\1/')
COMP_WORDS=(iothub-gateway "$@")
COMP_CWORD=$#
"$function" iothub-gateway "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn bash_completes_commands_and_their_options() {
    let folder = Folder::new();
    assert_eq!(offers(&folder, "ps"), ["psk"]);
    assert_eq!(offers(&folder, "psk gen"), ["generate"]);
    assert_eq!(offers(&folder, "psk generate --co"), ["--count"]);
    assert_eq!(offers(&folder, "psk import --format b"), ["base64"]);
    let orders = offers(&folder, "ctl ''");
    for order in ["explain", "drain", "--token-file"] {
        assert!(orders.iter().any(|offer| offer == order), "{orders:?}");
    }
}

#[test]
fn other_shells_have_theirs_and_an_unknown_one_is_refused() {
    let folder = Folder::new();
    for (shell, begin) in [
        ("zsh", "#compdef iothub-gateway"),
        ("fish", "complete -c iothub-gateway"),
    ] {
        let done = folder.sh(&format!("iothub-gateway completions {shell}"));
        assert!(done.code == 0 && done.out.contains(begin), "{shell}");
    }
    let done = folder.sh("iothub-gateway completions tcsh");
    assert_eq!(done.code, 64, "{done:?}");
}

#[test]
fn there_is_a_page_for_each_command_and_each_says_how_it_ends() {
    let folder = Folder::new();
    assert_eq!(folder.sh("iothub-gateway man pages").code, 0);
    let read = |name: &str| {
        let path = folder.path(&format!("pages/{name}.1"));
        std::fs::read_to_string(path).expect(name)
    };
    let first = read("iothub-gateway");
    let help = folder.sh("iothub-gateway --help").out;
    let (_, commands) = help.split_once("Commands:\n").expect("commands");
    let names = commands.lines().map_while(|line| {
        let line = line.strip_prefix("  ")?;
        line.split(' ').next().filter(|name| !name.is_empty())
    });
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        assert!(read(&format!("iothub-gateway-{name}")).contains("EXIT STATUS"));
        assert!(
            first.contains(&format!("iothub\\-gateway\\-{name}(1)")),
            "{name}"
        );
    }
    assert!(read("iothub-gateway-ctl-drain").contains("\\-\\-wait"));
    for entry in std::fs::read_dir(folder.path("pages")).expect("pages") {
        let page = std::fs::read_to_string(entry.expect("entry").path()).expect("text");
        assert!(page.is_ascii(), "whatever the locale is");
    }
}

#[cfg(feature = "interop")]
#[test]
fn the_pages_are_rendered_without_a_warning() {
    let folder = Folder::new();
    assert_eq!(folder.sh("iothub-gateway man pages").code, 0);
    let line = "for page in pages/*.1; do groff -man -ww -z \"$page\" || exit 1; done 2>&1";
    let done = folder.sh(line);
    assert_eq!((done.code, done.out.as_str()), (0, ""));
    let done = folder.sh("groff -man -Tascii pages/iothub-gateway-run.1");
    let name = "iothub-gateway-run - Run the gateway";
    assert!(done.out.contains(name), "{}", done.out);
}
