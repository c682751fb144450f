//! The checks, as functions over one file's path and text.

mod shown_to_fail;

/// What one part of the tree must not name. Prefixes of module paths (`crate::…`) or of crates.
struct Layer {
    files: &'static [&'static str],
    except: &'static [&'static str],
    must_not: &'static [&'static str],
}

/// ARCHITECTURE.md, "Layers", as data.
const LAYERS: &[Layer] = &[
    // 0: leaves
    Layer {
        files: &[
            "src/runtime/clock.rs",
            "src/config/secret.rs",
            "src/config/limits.rs",
        ],
        except: &[],
        must_not: &[
            "crate::mqtt",
            "crate::auth",
            "crate::router",
            "crate::hub",
            "crate::tls",
            "crate::listener",
            "crate::admin",
            "crate::gateway",
            "crate::cli",
            "crate::emulator",
        ],
    },
    Layer {
        files: &["src/telemetry/"],
        except: &[],
        must_not: &[
            "crate::mqtt",
            "crate::auth",
            "crate::router",
            "crate::hub",
            "crate::tls",
            "crate::listener",
            "crate::admin",
            "crate::gateway",
            "crate::cli",
            "crate::emulator",
        ],
    },
    // 1: pure
    Layer {
        files: &[
            "src/amqp/",
            "src/mqtt/",
            "src/websocket/",
            "src/listener/proxy/header.rs",
            "src/auth/",
            "src/router/topic_map.rs",
            "src/router/topic_map/",
            "src/router/properties.rs",
            "src/router/properties/",
            "src/hub/sas.rs",
            "src/hub/outcome.rs",
            "src/hub/outcome/",
            "src/hub/refusals.rs",
            "src/hub/refusals/",
            "src/hub/supervisor.rs",
            "src/hub/message.rs",
            "src/hub/encode.rs",
            "src/hub/exchange.rs",
            "src/hub/exchange/",
            "src/hub/requests.rs",
            "src/hub/desired.rs",
            "src/hub/desired/",
            "src/hub/schedule.rs",
            "src/hub/timekeeper.rs",
            "src/tls/hello.rs",
            "src/tls/route.rs",
            "src/tls/binder.rs",
        ],
        except: &[],
        must_not: &[
            "tokio",
            "tokio_util",
            "openssl",
            "tokio_openssl",
            "rustls",
            "tokio_rustls",
            "fe2o3_amqp",
            "std::net::TcpStream",
            "std::fs",
            "std::time::Instant",
            "std::time::SystemTime",
            "crate::runtime::clock::mono",
            "crate::runtime::clock::unix",
            "clock::mono()",
            "clock::unix()",
            "crate::listener",
            "crate::admin",
            "crate::gateway",
            "crate::cli",
            "crate::emulator",
            "crate::config::file",
            "crate::config::check",
        ],
    },
    Layer {
        files: &["src/mqtt/", "src/websocket/"],
        except: &[],
        must_not: &["crate::hub", "crate::tls", "crate::auth"],
    },
    // the engine is AMQP and nothing else: it knows time and secrets
    Layer {
        files: &["src/amqp/"],
        except: &[
            "crate::amqp",
            "crate::runtime::clock",
            "crate::config::secret",
        ],
        must_not: &["crate::"],
    },
    // 2: drivers
    Layer {
        files: &[
            "src/tls/",
            "src/listener/",
            "src/router/",
            "src/hub/",
            "src/admin/",
            "src/config/",
        ],
        except: &[],
        must_not: &["crate::cli", "crate::gateway", "crate::emulator"],
    },
    Layer {
        files: &["src/hub/"],
        except: &[],
        must_not: &["crate::mqtt", "crate::tls", "crate::listener"],
    },
    Layer {
        files: &["src/tls/"],
        except: &[],
        must_not: &["crate::auth", "crate::mqtt", "crate::hub"],
    },
    Layer {
        files: &["src/admin/"],
        except: &[],
        must_not: &["crate::hub", "crate::listener"],
    },
    Layer {
        files: &["src/gateway.rs", "src/gateway/"],
        except: &[],
        must_not: &["crate::emulator"],
    },
    // aside: the oracle shares no code with what it judges
    Layer {
        files: &["src/emulator/"],
        except: &[
            "crate::emulator",
            "crate::runtime::clock",
            "crate::config::secret",
        ],
        must_not: &["crate::"],
    },
    // aside: the load generator measures any server, and no code of the one it measures
    Layer {
        files: &["src/load/"],
        except: &[
            "crate::load",
            "crate::runtime::clock",
            "crate::config::secret",
        ],
        must_not: &["crate::"],
    },
    // one door each
    Layer {
        files: &["src/"],
        except: &["src/emulator/"],
        must_not: &["fe2o3_amqp"],
    },
    Layer {
        files: &["src/"],
        except: &["src/hub/", "src/emulator/", "src/amqp/"],
        must_not: &["serde_amqp", "fe2o3_amqp_types"],
    },
    Layer {
        files: &["src/"],
        except: &["src/tls/psk", "src/load/psk"],
        must_not: &["openssl", "tokio_openssl"],
    },
];

/// Every path named in `text`: `crate::a::b` and `name::…`, with `{…}` groups spelled out.
pub fn paths(text: &str) -> Vec<String> {
    let code = without_comments(text);
    let mut found = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("::") {
        let head = &rest[..at];
        let start = head
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_'))
            .map_or(0, |i| {
                i + head[i..].chars().next().map_or(1, char::len_utf8)
            });
        let first = &head[start..];
        rest = &rest[at + 2..];
        if first.is_empty() || first.starts_with(char::is_numeric) {
            continue;
        }
        let taken = expand(first, rest, &mut found);
        rest = &rest[taken..];
    }
    found
}

/// Appends the paths that continue `prefix::` in `rest`; answers how many bytes were read.
fn expand(prefix: &str, rest: &str, found: &mut Vec<String>) -> usize {
    if let Some(group) = rest.strip_prefix('{') {
        let (mut at, mut taken) = (0, 1);
        while at < group.len() {
            let part = group[at..].trim_start();
            at = group.len() - part.len();
            if part.starts_with('}') {
                return taken.max(at + 2);
            }
            let name: String = part
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if name.is_empty() {
                at += part.chars().next().map_or(1, char::len_utf8);
            } else {
                at += name.len();
                let path = format!("{prefix}::{name}");
                match group[at..].strip_prefix("::") {
                    Some(deeper) => at += 2 + expand(&path, deeper, found),
                    None => found.push(path),
                }
            }
            taken = at + 1;
        }
        return taken;
    }
    let name: String = rest
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    let path = if name.is_empty() {
        prefix.to_owned()
    } else {
        format!("{prefix}::{name}")
    };
    match rest[name.len()..].strip_prefix("::") {
        Some(deeper) if !name.is_empty() => name.len() + 2 + expand(&path, deeper, found),
        _ => {
            found.push(path);
            name.len()
        }
    }
}

/// The code before the in-file tests, without line comments.
pub fn without_comments(text: &str) -> String {
    let code = text
        .split("\n#[cfg(test)]\nmod ")
        .next()
        .unwrap_or_default();
    let mut kept = String::new();
    for line in code.lines() {
        let cut = line.find("//").filter(|at| !line[..*at].contains('"'));
        kept.push_str(&line[..cut.unwrap_or(line.len())]);
        kept.push('\n');
    }
    kept
}

/// Whether the file holds nothing but tests.
pub fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/")
}

fn names(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with("::") || prefix.ends_with("::"),
        None => false,
    }
}

/// Rule: a module names nothing above its layer.
pub fn layers(path: &str, text: &str) -> Vec<String> {
    if is_test(path) {
        return Vec::new();
    }
    let named = paths(text);
    let code = without_comments(text);
    let mut problems = Vec::new();
    for layer in LAYERS
        .iter()
        .filter(|l| l.files.iter().any(|f| path.starts_with(f)))
    {
        if layer.except.iter().any(|e| path.starts_with(e)) {
            continue;
        }
        for banned in layer.must_not {
            let by_path = named.iter().find(|n| {
                names(n, banned) && !layer.except.iter().any(|allowed| names(n, allowed))
            });
            if let Some(name) = by_path {
                problems.push(format!("{path}: names {name}, which its layer must not"));
            } else if banned.ends_with("()") && code.contains(banned) {
                problems.push(format!("{path}: calls {banned}, which its layer must not"));
            }
        }
    }
    problems
}

/// Rule: who may make a proof, implement the receipt, read the clock.
pub fn single_makers(path: &str, text: &str) -> Vec<String> {
    if is_test(path) {
        return Vec::new();
    }
    let code = without_comments(text);
    let mut problems = Vec::new();
    let mut only = |what: &str, patterns: &[&str], homes: &[&str]| {
        let home = homes.iter().any(|h| path.starts_with(h));
        if !home && let Some(pattern) = patterns.iter().find(|p| code.contains(**p)) {
            problems.push(format!("{path}: `{pattern}`; only {homes:?} may {what}"));
        }
    };
    only(
        "construct AuthenticatedDevice",
        &["AuthenticatedDevice {", "AuthenticatedDevice::new("],
        &["src/auth/"],
    );
    for (made, home) in [
        ("HubAccepted((", "src/hub/outcome.rs"),
        ("RefusedByRule((", "src/router/refused.rs"),
    ] {
        only("construct it", &[made], &[home]);
    }
    only(
        "implement Receipt",
        &["Receipt for "],
        &["src/router/mod.rs"],
    );
    only(
        "acknowledge without the hub",
        &[".answer(ticket"],
        &["src/listener/conn/reserved.rs"],
    );
    only(
        "build a device address",
        &["DeviceAddress {"],
        &["src/hub/message.rs"],
    );
    only(
        "read a clock",
        &["Instant::now(", "SystemTime::now(", "::now_utc("],
        &["src/runtime/clock.rs"],
    );
    problems
}

/// Rule: files under 500 lines, functions under 70, lines of at most 100 columns.
pub fn sizes(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut problems = Vec::new();
    if lines.len() >= 500 {
        problems.push(format!("{path}: {} lines, the limit is 499", lines.len()));
    }
    for (number, line) in lines.iter().enumerate() {
        if line.chars().count() > 100 && !line.contains("http") && !line.trim().starts_with("//!") {
            problems.push(format!("{path}:{}: longer than 100 columns", number + 1));
        }
        let indent = line.len() - line.trim_start().len();
        if is_function(line.trim_start()) {
            let close = format!("{}}}", " ".repeat(indent));
            let body = lines[number..].iter().position(|l| *l == close);
            if let Some(length) = body.map(|b| b + 1).filter(|length| *length > 70) {
                problems.push(format!("{path}:{}: function of {length} lines", number + 1));
            }
        }
    }
    problems
}

fn is_function(line: &str) -> bool {
    let line = line
        .strip_prefix("pub")
        .map_or(line, |l| match l.split_once(") ") {
            Some((scope, rest)) if scope.starts_with('(') => rest,
            _ => l.trim_start(),
        });
    let line = line
        .trim_start_matches("const ")
        .trim_start_matches("async ");
    line.starts_with("fn ") && !line.ends_with(';') && !line.ends_with('}')
}

/// Rule: no machine path, no ignored test, no unfinished business.
pub fn banned(path: &str, text: &str) -> Vec<String> {
    let words = [
        "/work/",
        "#[ignore",
        "TODO",
        "FIXME",
        "XXX",
        "todo!(",
        "unimplemented!(",
    ];
    // A field of a log line as Rust debug text.
    let words = words
        .iter()
        .chain(path.starts_with("src/").then_some(&" = ?"));
    words
        .filter(|word| text.contains(**word))
        .map(|word| format!("{path}: contains {word}"))
        .collect()
}
