//! `token_file` and `token_url`: a token that somebody else makes.

use crate::config::reader::Reader;
use crate::config::{TokenSource, TokenUrl, secret_file};

/// Who makes the token. With a file or a service, the keys that would sign one are problems.
pub(super) fn source(reader: &Reader<'_>, insecure_permissions: bool) -> TokenSource {
    let (file, url) = (reader.has("token_file"), reader.has("token_url"));
    if file && url {
        reader.problem("token_url", "token_file is set too; keep one of them");
    }
    let outside = match (file, url) {
        (true, _) => "token_file",
        (false, true) => "token_url",
        (false, false) => return TokenSource::Keys,
    };
    for key in ["policy", "key", "secondary_key", "connection_string"] {
        if reader.has(key) {
            let message = format!("{outside} brings a token ready-made; keep one of them");
            reader.problem(key, message);
        }
    }
    if reader.has("token_ttl") {
        let message = format!("has no effect with {outside}: the token says when it ends");
        reader.warning("token_ttl", message);
    }
    if file {
        return from_file(reader, insecure_permissions);
    }
    let url = reader.parsed("token_url", TokenUrl::parse, TokenUrl::to_string);
    // Only a bad one is missing here, and that is reported.
    url.map_or(TokenSource::Keys, TokenSource::Url)
}

fn from_file(reader: &Reader<'_>, insecure_permissions: bool) -> TokenSource {
    let Some(path) = reader.path("token_file") else {
        return TokenSource::Keys;
    };
    match secret_file::read(&path, insecure_permissions) {
        Ok(text) if text.starts_with("SharedAccessSignature ") => {}
        Ok(_) => reader.problem(
            "token_file",
            "holds no SAS token; it must be one line, SharedAccessSignature sr=…&sig=…&se=…",
        ),
        // Who writes it may start after us.
        Err(_) if !path.exists() => {
            reader.warning("token_file", "is not there yet; the gateway waits for it");
        }
        Err(message) => reader.problem("token_file", message),
    }
    TokenSource::File {
        path,
        insecure_permissions,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Examination, TokenSource, examine};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let name = format!("iothub-gateway-token-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Examines a file whose `[hub]` has a host and these lines.
    fn examined(name: &str, hub: &str) -> (Examination, PathBuf) {
        let folder = folder(name);
        let path = folder.join("gateway.toml");
        std::fs::write(folder.join("rules.toml"), "").unwrap();
        let text = format!(
            "[hub]\nhost = \"h.example\"\n{hub}\n[[listener]]\nname = \"d\"\n\
             bind = \"127.0.0.1:1883\"\n[rules]\nfiles = [\"rules.toml\"]\n"
        );
        std::fs::write(&path, text).unwrap();
        (examine(&path, std::iter::empty()), folder)
    }

    fn problems(name: &str, hub: &str) -> Vec<String> {
        let (found, folder) = examined(name, hub);
        std::fs::remove_dir_all(folder).unwrap();
        let text = |p: &crate::config::Problem| format!("{}: {}", p.key, p.message);
        found.problems.iter().map(text).collect()
    }

    #[test]
    fn a_token_made_elsewhere_needs_no_key() {
        let (found, folder) = examined("file", "token_file = \"token\"");
        assert_eq!(found.problems, []);
        assert!(found.warnings.iter().any(|w| w.key == "hub.token_file"));
        let expected = TokenSource::File {
            path: folder.join("token"),
            insecure_permissions: false,
        };
        assert_eq!(found.draft.unwrap().hub.token_source, expected);
        std::fs::remove_dir_all(folder).unwrap();

        let (found, folder) = examined("url", "token_url = \"https://t.example/x\"");
        assert_eq!(found.problems, []);
        let source = found.draft.unwrap().hub.token_source;
        assert!(matches!(source, TokenSource::Url(url) if url.host == "t.example"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn two_makers_of_the_token_are_one_too_many() {
        let both = "token_file = \"token\"\ntoken_url = \"https://t.example/x\"";
        let found = problems("both", both);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("hub.token_url: token_file"),
            "{found:?}"
        );
        let keys = "token_file = \"token\"\npolicy = \"device\"\nkey = \"QUJD\"";
        let found = problems("keys", keys);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found.iter().all(|p| p.contains("keep one of them")),
            "{found:?}"
        );
    }

    #[test]
    fn a_bad_source_says_what_is_wrong() {
        let found = problems("plain", "token_url = \"http://t.example/x\"");
        assert!(
            found.len() == 1 && found[0].contains("loopback"),
            "{found:?}"
        );

        let folder = folder("open");
        let token = folder.join("token");
        std::fs::write(&token, "SharedAccessSignature sr=x&sig=y&se=1").unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
        let found = problems("exposed", &format!("token_file = \"{}\"", token.display()));
        assert!(
            found.len() == 1 && found[0].contains("chmod 600"),
            "{found:?}"
        );
        std::fs::write(&token, "Bearer x").unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        let found = problems("nonsense", &format!("token_file = \"{}\"", token.display()));
        assert!(
            found.len() == 1 && found[0].contains("no SAS token"),
            "{found:?}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
