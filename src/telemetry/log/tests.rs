use super::format::LINE_BYTES_MAX;
use super::*;
use std::sync::{Arc, Condvar, Mutex};
use tracing::Level;

#[path = "../../../tests/support/logfmt.rs"]
mod logfmt;

const EVIL: &str = "a\x1b[31mred\x1b]0;title\x07\r\nlevel=ERROR forged\u{202e}txt\u{200f}\u{9b}b";

const HOSTILE: &[&str] = &[
    "",
    " ",
    "a b",
    "a=b",
    "\"",
    "\\",
    "\\\"",
    "a\tb",
    "\u{a0}",
    "\u{85}",
    "\u{e0041}",
    "\u{1f600}",
    "null",
    "true",
    "12",
    "{}",
    "level=error",
    "\u{feff}x",
    EVIL,
    "Größe",
    "a\0b",
];

fn logged(format: Format, log: impl Fn()) -> Vec<String> {
    let sink = Arc::new(Mutex::new(String::new()));
    let out = sink.clone();
    let lines = Lines {
        format,
        out: move |_, line: String| out.lock().unwrap().push_str(&line),
    };
    let registry = tracing_subscriber::Registry::default().with(lines);
    tracing::subscriber::with_default(registry, log);
    let text = sink.lock().unwrap().clone();
    assert!(text.ends_with('\n'));
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(
        text.matches('\n').count(),
        lines.len(),
        "a line is one line"
    );
    for line in &lines {
        assert!(line.len() <= LINE_BYTES_MAX, "{} bytes", line.len());
    }
    lines
}

fn read(format: Format, line: &str) -> serde_json::Map<String, serde_json::Value> {
    let shown = line.replace('\u{1b}', "ESC");
    assert!(!line.chars().any(is_hidden), "{shown}");
    let fields = match format {
        Format::Json => logfmt::json(line),
        _ => logfmt::logfmt(line),
    };
    let fields = fields.unwrap_or_else(|error| panic!("{error}: {shown}"));
    logfmt::check(&fields).unwrap_or_else(|error| panic!("{error}: {shown}"));
    fields
}

#[test]
fn a_filter_switches_connects_and_refusals() {
    let sink = Arc::new(Mutex::new(String::new()));
    let out = sink.clone();
    let lines = Lines {
        format: Format::Logfmt,
        out: move |_, line: String| out.lock().unwrap().push_str(&line),
    };
    let filter = format!("info,{CONNECT}=off,{REFUSAL}=warn");
    let filter = parse_filter(&filter).unwrap();
    let registry = tracing_subscriber::Registry::default()
        .with(filter)
        .with(lines);
    tracing::subscriber::with_default(registry, || {
        tracing::info!(target: CONNECT, "connected");
        tracing::info!(target: REFUSAL, "refused");
        tracing::info!(target: "iothub_gateway::cli::run", "banner");
    });
    let text = sink.lock().unwrap().clone();
    assert!(
        text.contains("banner") && text.lines().count() == 1,
        "{text}"
    );
}

const PARSED: [Format; 2] = [Format::Logfmt, Format::Json];

#[test]
fn a_parser_reads_every_text_back_as_it_was() {
    for format in PARSED {
        for text in HOSTILE {
            let log = || {
                let error = io::Error::other(*text);
                tracing::info!(id = text, shown = %text, %error, "{text}");
            };
            let lines = logged(format, log);
            assert_eq!(lines.len(), 1);
            let fields = read(format, &lines[0]);
            for key in ["id", "shown", "error", "msg"] {
                assert_eq!(fields[key], *text, "{key} of {text:?}");
            }
        }
    }
}

#[test]
fn numbers_and_booleans_stay_what_they_are() {
    for format in PARSED {
        let log = || {
            let nothing: Option<u64> = None;
            let endless = f64::INFINITY;
            tracing::warn!(
                n = 7_u64,
                minus = -1_i64,
                half = 0.5,
                endless,
                yes = true,
                nothing,
                "x"
            );
        };
        let fields = read(format, &logged(format, log)[0]);
        assert_eq!(fields["n"], 7);
        assert_eq!(fields["minus"], -1);
        assert_eq!(fields["half"], 0.5);
        assert_eq!(fields["yes"], true);
        assert_eq!(fields["endless"], "inf");
        assert_eq!(fields["level"], "warn");
        assert!(!fields.contains_key("nothing"));
    }
}

#[test]
fn a_line_has_a_bounded_length_and_still_parses() {
    for format in PARSED {
        for unit in ["x", "\u{202e}", "\"", "é ", "\u{e0041}"] {
            let long = unit.repeat(64 * 1024);
            let log = || {
                tracing::info!(
                    a = long,
                    b = long,
                    c = long,
                    d = long,
                    e = long,
                    f = 1,
                    "{long}"
                );
            };
            let fields = read(format, &logged(format, log)[0]);
            let shown = fields["msg"].as_str().unwrap();
            assert!(
                shown.ends_with(&format!("… ({} bytes)", long.len())),
                "{shown}"
            );
            assert!(fields["fields_cut"].as_u64().unwrap() >= 2, "{fields:?}");
            assert_eq!(fields["f"], 1, "a short field still has room");
        }
    }
}

#[test]
fn keys_are_keys_and_none_is_there_twice() {
    for format in PARSED {
        let log = || {
            tracing::info!(target: "x=y z", level = "l", "a b=\"c\"" = 1, ts = 2, msg = "m", "t");
            tracing::info!(same = 1, same = 2, "twice");
            tracing::info!(r#type = 3, "raw");
        };
        let lines = logged(format, log);
        let fields = read(format, &lines[0]);
        assert_eq!(
            (&fields["level"], &fields["level_"]),
            (&"info".into(), &"l".into())
        );
        assert_eq!(
            (&fields["msg"], &fields["msg_"]),
            (&"t".into(), &"m".into())
        );
        assert_eq!(fields["ts_"], 2);
        assert_eq!(read(format, &lines[2])["type"], 3);
        assert_eq!(fields["target"], "x=y z");
        assert_eq!(read(format, &lines[1])["same"], 1);
    }
}

#[test]
fn a_terminal_gets_colours_and_nothing_else_that_it_would_obey() {
    for colours in [true, false] {
        let log = || tracing::info!(id = EVIL, "hello \"{EVIL}\" \\");
        let line = logged(Format::Terminal { colours }, log).remove(0);
        assert_eq!(line.contains("\x1b["), colours, "{line:?}");
        assert!(
            line.contains("hello \"a\\u001b[31mred"),
            "quotes as they are: {line:?}"
        );
        let mut rest = line.clone();
        for colour in ["0", "2", "31", "32", "33"] {
            rest = rest.replace(&format!("\x1b[{colour}m"), "");
        }
        assert!(!rest.chars().any(is_hidden), "{rest:?}");
    }
}

/// A reader that can be stopped, or gone.
#[derive(Clone, Default)]
struct Pipe(Arc<(Mutex<Reader>, Condvar)>);

#[derive(Default)]
struct Reader {
    stopped: bool,
    gone: bool,
    text: String,
}

impl Pipe {
    fn set(&self, stopped: bool, gone: bool) {
        let mut state = self.0.0.lock().unwrap();
        (state.stopped, state.gone) = (stopped, gone);
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().text.clone()
    }
}

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = self.0.0.lock().unwrap();
        let mut state = self.0.1.wait_while(state, |state| state.stopped).unwrap();
        if state.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.text.push_str(std::str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_stops_costs_bounded_memory_and_is_told_what_it_missed() {
    let pipe = Pipe::default();
    pipe.set(true, false);
    let queue = Queue::start(pipe.clone(), |lines| format!("dropped {lines}\n")).unwrap();
    let line = format!("{}\n", "x".repeat(1023));
    let sent = 2 * QUEUE_BYTES_MAX / line.len();
    for _ in 0..sent {
        queue.push(Level::INFO, line.clone());
    }
    let dropped = queue.dropped();
    let kept = sent as u64 - dropped;
    assert_eq!(kept, (QUEUE_BYTES_MAX / 4 * 3 / line.len()) as u64);
    queue.push(Level::ERROR, "grave\n".to_owned());
    assert_eq!(queue.dropped(), dropped, "there is room for what is grave");
    assert!(!queue.flush(Duration::from_millis(10)), "nobody reads");
    pipe.set(false, false);
    assert!(queue.flush(Duration::from_secs(20)));
    let text = pipe.text();
    assert_eq!(
        text.lines().filter(|l| l.len() == 1023).count() as u64,
        kept
    );
    assert!(text.ends_with(&format!("grave\ndropped {dropped}\n")));
}

#[test]
fn lines_for_a_reader_that_is_gone_are_counted() {
    let pipe = Pipe::default();
    pipe.set(false, true);
    let queue = Queue::start(pipe.clone(), |lines| format!("dropped {lines}\n")).unwrap();
    queue.push(Level::INFO, "a\n".to_owned());
    assert!(queue.flush(Duration::from_secs(20)));
    assert_eq!(queue.dropped(), 1);
    pipe.set(false, false);
    queue.push(Level::INFO, "b\n".to_owned());
    assert!(queue.flush(Duration::from_secs(20)));
    assert_eq!(pipe.text(), "b\ndropped 1\n");
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
    assert!(
        !error.contains("rustls") && !error.contains("notify"),
        "{error}"
    );
    let shown = |text: &str| parse_filter(text).expect("a filter").to_string();
    assert!(
        shown("trace,rustls=trace").contains("notify=warn"),
        "or the log may write for ever"
    );
    assert!(shown("trace,notify=trace").contains("notify=trace"));
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

#[test]
fn a_line_has_the_code_of_its_event() {
    for format in PARSED {
        let log = || {
            tracing::warn!(name: "hub_lost", target: "iothub_gateway::x", event = 1, "lost");
            tracing::warn!(target: "iothub_gateway::hub::report", "hub refuses: it {}", "does");
            tracing::warn!(target: "iothub_gateway::x", "nameless");
            tracing::warn!(name: "theirs", target: "h2", "of a library");
        };
        let lines = logged(format, log);
        let codes = ["hub_lost", "hub_refuses", "", ""];
        assert_eq!(lines.len(), codes.len());
        for (line, code) in lines.iter().zip(codes) {
            let fields = read(format, line);
            let event = fields.get("event").and_then(|event| event.as_str());
            assert_eq!(event.unwrap_or_default(), code, "{line}");
            assert_eq!(fields.contains_key("event_"), code == "hub_lost", "{line}");
        }
    }
    let shown = logged(Format::Terminal { colours: false }, || {
        tracing::warn!(name: "hub_lost", target: "iothub_gateway::x", "lost");
    });
    assert!(
        !shown[0].contains("hub_lost"),
        "not for people: {}",
        shown[0]
    );
}

#[test]
fn the_lines_own_words_about_the_log_have_a_code() {
    let line = format::notice(Format::Json, "dropped", "lines", 3);
    let fields = read(Format::Json, line.trim_end());
    assert_eq!(fields["event"], "log_lines_dropped");
}
