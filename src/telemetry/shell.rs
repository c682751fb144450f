//! Words of a command line that can be pasted into a POSIX shell; pure.

use std::borrow::Cow;

/// `text` as one word of a shell: as it is where that is safe, in quotes where not. Control
/// characters are written as `$'…'` has them (POSIX.1-2024 §2.2.4), so that a pasted word can
/// neither end the line nor move the cursor.
#[must_use]
pub fn quoted(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let printable = |c: char| !c.is_control() && !is_invisible(c);
    if text.chars().all(printable) {
        return Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")));
    }
    let mut word = String::from("$'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            c if printable(c) => word.push(c),
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    word.push_str(&format!("\\{byte:03o}"));
                }
            }
        }
    }
    word.push('\'');
    Cow::Owned(word)
}

/// ` --flag VALUE`; a value that looks like a flag of its own is joined to it.
pub fn option(line: &mut String, flag: &str, value: &str) {
    let joint = if value.starts_with('-') { '=' } else { ' ' };
    line.push_str(&format!(" --{flag}{joint}{}", quoted(value)));
}

/// Characters that change how a line looks, or cannot be seen.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::{option, quoted};
    use std::process::Command;

    #[test]
    fn a_shell_reads_every_word_as_it_was() {
        for text in [
            "thermo-1",
            "",
            "a b",
            "it's",
            "$(reboot); `id` \"x\" \\ * ? ~ # !",
            "two\nlines\ttab\u{1b}[31m",
            "\u{202e}gnp.exe",
            "Größe \u{1f600}",
            "'\n'",
        ] {
            let shell = Command::new("bash")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output()
                .expect("bash runs");
            assert_eq!(String::from_utf8_lossy(&shell.stdout), text, "{text:?}");
            assert!(!quoted(text).contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn a_value_that_looks_like_a_flag_is_joined() {
        let mut line = String::new();
        option(&mut line, "client-id", "-rf");
        option(&mut line, "topic", "a b");
        assert_eq!(line, " --client-id=-rf --topic 'a b'");
    }
}
