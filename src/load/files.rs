//! Secrets of the devices, out of files or variables: by name, or made from one template.

use super::template::Template;
use crate::config::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::HashMap;
use std::io::Read as _;
use zeroize::Zeroizing;

/// Largest secret file read, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How the text of one secret becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Hex as in mosquitto's `psk_file`; `hex:`, `base64:` and `raw:` say otherwise.
    Psk,
    /// Base64.
    Base64,
    /// The text itself.
    Text,
}

/// The secrets of all devices.
pub enum Keys {
    /// One template for all.
    Template(Template, Coding),
    /// By identity, client id or user name.
    ByName(HashMap<String, Secret>),
}

/// The text of `source`: a path, or `env:NAME`.
///
/// # Errors
/// A sentence without any of the content.
pub fn text(source: &str) -> Result<Zeroizing<String>, String> {
    if let Some(name) = source.strip_prefix("env:") {
        return match std::env::var(name) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(_) => Err(format!("{source}: the variable is not set, or not UTF-8")),
        };
    }
    let file = std::fs::File::open(source).map_err(|e| format!("{source}: {e}"))?;
    let mut text = Zeroizing::new(String::new());
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Err(error) => Err(format!("{source}: {error}")),
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => {
            Err(format!("{source}: larger than {FILE_BYTES_MAX} bytes"))
        }
        Ok(_) => Ok(text),
    }
}

impl Keys {
    /// Lines `name:SECRET`; empty ones and those that begin with `#` are skipped, and so is
    /// what follows the key of a PSK after a space.
    ///
    /// # Errors
    /// A sentence with source and line.
    pub fn by_name(source: &str, coding: Coding) -> Result<Self, String> {
        let text = text(source)?;
        let mut found = HashMap::new();
        for (number, line) in lines(&text) {
            let problem = |what: &str| format!("{source}:{number}: {what}");
            let (name, secret) = line
                .split_once(':')
                .ok_or_else(|| problem("is not NAME:SECRET"))?;
            let secret = decode(secret, coding).ok_or_else(|| problem("the key is not valid"))?;
            found.insert(name.to_owned(), secret);
        }
        if found.is_empty() {
            return Err(format!("{source}: holds no line NAME:SECRET"));
        }
        Ok(Self::ByName(found))
    }

    /// One line, a template.
    ///
    /// # Errors
    /// A sentence, when there is not exactly one line or it makes no valid secret.
    pub fn template(source: &str, coding: Coding) -> Result<Self, String> {
        let text = text(source)?;
        let mut lines = lines(&text);
        let (Some((_, line)), None) = (lines.next(), lines.next()) else {
            return Err(format!("{source}: must hold one line, the template"));
        };
        let template = Template::parse(line).map_err(|_| {
            format!("{source}: a hole is not understood; write {{n}}, {{n:06}} or {{n:08x}}")
        })?;
        if decode(&template.fill(0, "id"), coding).is_none() {
            return Err(format!("{source}: the template makes no valid key"));
        }
        Ok(Self::Template(template, coding))
    }

    /// One line without a colon is a template, anything else lines `name:SECRET`.
    ///
    /// # Errors
    /// As for the two.
    pub fn either(source: &str, coding: Coding) -> Result<Self, String> {
        let text = text(source)?;
        let mut lines = lines(&text);
        match (lines.next(), lines.next()) {
            (Some((_, line)), None) if !line.contains(':') => Self::template(source, coding),
            _ => Self::by_name(source, coding),
        }
    }

    /// The first name in the alphabet, to show how names are written.
    #[must_use]
    pub fn example(&self) -> Option<&str> {
        match self {
            Self::Template(..) => None,
            Self::ByName(found) => found.keys().map(String::as_str).min(),
        }
    }

    /// The secret of device `n` with client id `id`, known as `name`.
    #[must_use]
    pub fn get(&self, n: u64, id: &str, name: &str) -> Option<Secret> {
        match self {
            Self::Template(template, coding) => {
                decode(&Zeroizing::new(template.fill(n, id)), *coding)
            }
            Self::ByName(found) => found.get(name).cloned(),
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate();
    numbered
        .map(|(at, line)| (at + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn decode(text: &str, coding: Coding) -> Option<Secret> {
    let bytes = match coding {
        Coding::Text => text.as_bytes().to_vec(),
        Coding::Base64 => BASE64.decode(text.trim()).ok()?,
        Coding::Psk => {
            if let Some(raw) = text.strip_prefix("raw:") {
                raw.as_bytes().to_vec()
            } else {
                let key = text.split_whitespace().next()?;
                match key.strip_prefix("base64:") {
                    Some(key) => BASE64.decode(key).ok()?,
                    None => hex(key.strip_prefix("hex:").unwrap_or(key))?,
                }
            }
        }
    };
    (!bytes.is_empty()).then(|| Secret::new(bytes))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Coding, Keys};
    use std::path::PathBuf;

    fn file(name: &str, text: &str) -> String {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/load-files");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    #[test]
    fn the_gateways_and_mosquittos_psk_lines_are_read() {
        let text = "# fleet\na:00fF\n\nb:base64:AQI=\nc:hex:0a next=hex:0b\nd:raw:x y\n";
        let keys = Keys::by_name(&file("psk", text), Coding::Psk).unwrap();
        let key = |name| keys.get(0, "", name).map(|k| k.expose().to_vec());
        assert_eq!(key("a"), Some(vec![0, 255]));
        assert_eq!(key("b"), Some(vec![1, 2]));
        assert_eq!(key("c"), Some(vec![10]));
        assert_eq!(key("d"), Some(b"x y".to_vec()));
        assert_eq!(key("e"), None);
    }

    #[test]
    fn a_template_makes_a_key_for_each_device() {
        let keys = Keys::template(&file("template", "raw:key-{n:010}\n"), Coding::Psk).unwrap();
        let key = keys.get(7, "id", "name").unwrap();
        assert_eq!(key.expose(), b"key-0000000007");
    }

    #[test]
    fn problems_name_the_line_and_never_the_secret() {
        let source = file("bad", "ok:00\nbad:SECRETTEXT\n");
        let problem = Keys::by_name(&source, Coding::Psk).err().unwrap();
        assert!(
            problem.contains(":2:") && !problem.contains("SECRETTEXT"),
            "{problem}"
        );
        let source = file("odd", "SECRETTEXT{n:q}\n");
        let problem = Keys::template(&source, Coding::Text).err().unwrap();
        assert!(!problem.contains("SECRETTEXT"), "{problem}");
        assert!(Keys::by_name(&file("empty", "# nothing\n"), Coding::Psk).is_err());
        assert!(Keys::template("env:NO_SUCH_VARIABLE_HERE", Coding::Text).is_err());
    }

    #[test]
    fn one_line_without_a_colon_is_everybodys() {
        let keys = Keys::either(&file("one", "AQI=\n"), Coding::Base64).unwrap();
        assert_eq!(keys.get(1, "x", "x").unwrap().expose(), [1, 2]);
        let keys = Keys::either(&file("many", "x:AQI=\n"), Coding::Base64).unwrap();
        assert!(keys.get(1, "x", "x").is_some() && keys.get(1, "y", "y").is_none());
    }
}
