use super::*;
use std::sync::{Arc, Mutex};

const EVIL: &str = "a\x1b[31mred\x1b]0;title\x07\r\nlevel=ERROR forged\u{202e}txt\u{200f}\u{9b}b";

/// Collects what would go to standard error.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics with it").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        let bytes = self.0.lock().expect("no test panics with it").clone();
        String::from_utf8(bytes).expect("logs are UTF-8")
    }
}

fn assert_one_printable_line(log: &str, lines: usize) {
    assert_eq!(log.matches('\n').count(), lines, "{log:?}");
    let shown = log.replace('\n', "");
    assert!(!shown.chars().any(is_hidden), "{shown:?}");
}

fn logged(json: bool, ansi: bool) -> String {
    let sink = Sink::default();
    let out = sink.clone();
    let cap = if json { usize::MAX } else { LINE_BYTES_MAX };
    let writer = move || Printable::new(out.clone(), ansi, cap);
    let log = || {
        let error = io::Error::other(EVIL);
        tracing::info!(client_id = EVIL, shown = %EVIL, debug = ?EVIL, %error, "hello {EVIL}");
        tracing::info!(topic = "x".repeat(64 * 1024), capped = %capped(EVIL), "long");
    };
    let registry = tracing_subscriber::registry();
    if json {
        tracing::subscriber::with_default(registry.with(json_layer(writer)), log);
    } else {
        tracing::subscriber::with_default(registry.with(text_layer(writer, ansi)), log);
    }
    sink.text()
}

#[test]
fn a_text_line_stays_one_printable_capped_line() {
    let log = logged(false, false);
    assert_one_printable_line(&log, 2);
    assert!(log.lines().all(|line| line.len() < LINE_BYTES_MAX + 64));
    assert!(log.contains("hello a"), "{log}");
}

#[test]
fn json_lines_parse_whatever_is_in_them() {
    let log = logged(true, false);
    assert_one_printable_line(&log, 2);
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["level"], "INFO");
    }
    let first: serde_json::Value =
        serde_json::from_str(log.lines().next().expect("two lines")).expect("JSON");
    assert_eq!(first["client_id"], EVIL, "JSON keeps the text itself");
}

#[test]
fn a_terminal_gets_colours_and_nothing_else_that_it_would_obey() {
    let log = logged(false, true);
    assert!(log.contains("\x1b["), "colours are on");
    assert!(!log.contains("\x1b]"), "no title sequences");
    assert!(!log.contains('\x07') && !log.contains('\r') && !log.contains('\u{202e}'));
    assert_eq!(log.matches('\n').count(), 2);
}

#[test]
fn capped_shows_what_is_hidden() {
    assert_eq!(capped("thermo-1"), "thermo-1");
    assert_eq!(capped("a\nb\x1b[0m"), "a\\u{a}b\\u{1b}[0m");
    assert_eq!(capped("\u{202e}\u{200f}\0"), "\\u{202e}\\u{200f}\\u{0}");
    assert_eq!(capped("Größe 温度"), "Größe 温度");
}

#[test]
fn capped_cuts_at_two_hundred_and_says_how_much_there_was() {
    let exact = "x".repeat(200);
    assert_eq!(capped(&exact), exact);
    let long = capped(&"x".repeat(64 * 1024));
    assert_eq!(long, format!("{}… (65536 bytes)", "x".repeat(200)));
    let hidden = capped(&"\u{202e}".repeat(64 * 1024));
    assert!(hidden.chars().count() <= 220, "{}", hidden.chars().count());
}

#[test]
fn escaped_length_is_what_is_written() {
    for c in ['\0', '\n', '\x7f', '\u{9f}', '\u{202e}', '\u{e007f}'] {
        assert_eq!(escaped_len(c), format!("\\u{{{:x}}}", u32::from(c)).len());
    }
}

#[test]
fn a_plain_level_quiets_the_libraries_and_directives_do_as_told() {
    let info = parse_filter("info").expect("a filter").to_string();
    assert!(
        info.contains("fe2o3_amqp=warn") && info.contains("rustls=warn"),
        "{info}"
    );
    let error = parse_filter("error").expect("a filter").to_string();
    assert!(!error.contains("rustls"), "{error}");
    let own = parse_filter("trace,fe2o3_amqp=trace")
        .expect("a filter")
        .to_string();
    assert!(own.contains("fe2o3_amqp=trace"), "{own}");
}

#[test]
fn a_filter_that_would_log_nothing_by_mistake_is_refused() {
    for text in ["", "  ", "verbose", "infoo", "info,x=loud", "a=b=c"] {
        assert!(parse_filter(text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn a_bad_filter_stops_the_set_up_and_names_its_key() {
    let config = LogConfig {
        json: false,
        filter: "loud".to_owned(),
    };
    let error = init(&config).expect_err("no filter").to_string();
    assert!(error.starts_with("log.filter: "), "{error}");
}
