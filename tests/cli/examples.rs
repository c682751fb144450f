//! The files of `config/` and `certs/` as they are shipped: a copy of a clean clone, and the very
//! commands that stand in the files. Only ports are others, so that tests do not meet.

use crate::folder::{Done, Folder};
use crate::process::free_port;
use iothub_gateway::runtime::clock;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Ports that stand in the files.
const PORTS: [&str; 7] = ["8883", "1883", "5671", "5672", "5680", "5681", "9464"];

/// Made by the commands, ignored by git.
const MADE: [&str; 2] = ["dev", "minimal.psk"];

struct Clone {
    folder: Folder,
    ports: Vec<(&'static str, String)>,
    running: Vec<Child>,
}

impl Drop for Clone {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Clone {
    fn of(parts: &[&str]) -> Self {
        let clone = Self {
            folder: Folder::empty(),
            ports: PORTS.map(|port| (port, free_port().to_string())).into(),
            running: Vec::new(),
        };
        for part in parts {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(part);
            fs::create_dir(clone.folder.path(part)).expect("folder");
            for entry in fs::read_dir(from).expect("readable") {
                let entry = entry.expect("entry");
                let name = entry.file_name().into_string().expect("UTF-8");
                if MADE.contains(&name.as_str()) {
                    continue;
                }
                let to = clone.folder.path(&format!("{part}/{name}"));
                let text = fs::read_to_string(entry.path()).expect("text");
                fs::write(&to, clone.moved(&text)).expect("written");
                let mode = fs::metadata(entry.path()).expect("mode").permissions();
                fs::set_permissions(&to, mode).expect("mode");
            }
        }
        clone
    }

    fn port(&self, shown: &str) -> &str {
        let found = self.ports.iter().find(|(port, _)| *port == shown);
        &found.expect("a port of the files").1
    }

    /// Other ports, and nothing beyond this machine.
    fn moved(&self, text: &str) -> String {
        let ports = self.ports.iter();
        let text = ports.fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        text.replace("0.0.0.0", "127.0.0.1")
    }

    /// The commands in a file's first comment, in their order, ports as in this clone.
    fn commands(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path(file)).expect("text");
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let lines: Vec<_> = head.filter_map(|line| line.strip_prefix("#   ")).collect();
        let joined = lines.join("\n").replace("\\\n", "");
        joined.lines().map(str::to_owned).collect()
    }

    /// Does what a reader does: what serves stays, the next command comes when it is up.
    fn follow(&mut self, commands: &[String]) -> Vec<Done> {
        let mut done = Vec::new();
        for command in commands {
            let serves = [
                ("iothub-gateway emulator ", "5680"),
                ("iothub-gateway run ", "9464"),
            ];
            let serves = serves.iter().find(|(start, _)| command.starts_with(start));
            let Some((_, port)) = serves else {
                let one = self.folder.sh(command);
                assert_eq!(one.code, 0, "{command}\n{}{}", one.out, one.err);
                done.push(one);
                continue;
            };
            let line = match command.contains(" --cert ") {
                // where it listens by default is no text in a file
                true => format!("{command} --tls-bind 127.0.0.1:{}", self.port("5671")),
                false => command.clone(),
            };
            self.serve(&line);
            self.up(port);
        }
        done
    }

    fn serve(&mut self, line: &str) {
        let command = self.folder.command(&format!("exec {line}"));
        self.keep(command);
    }

    fn keep(&mut self, mut command: Command) {
        // minimal.toml leaves this at its default, which another process may have
        let admin = format!("127.0.0.1:{}", self.port("9464"));
        command.env("IOTHUB_GATEWAY__ADMIN__BIND", admin);
        let child = command.stdout(Stdio::null()).spawn();
        self.running.push(child.expect("it starts"));
    }

    fn up(&mut self, port: &str) {
        let path = if port == "9464" { "/ready" } else { "/stats" };
        let from = clock::mono();
        while http_status(self.port(port), path) != Some(200) {
            let ended = self
                .running
                .iter_mut()
                .find_map(|child| child.try_wait().ok()?);
            assert_eq!(ended, None, "what serves {port} ended");
            assert!(
                clock::mono().since(from) < Duration::from_secs(20),
                "{port} is not up"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn http_status(port: &str, path: &str) -> Option<u16> {
    let mut socket = TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1)?.parse().ok()
}

/// What the report of `load` has to say after `devices` devices.
fn served(report: &Done, devices: usize) {
    for part in [
        format!("{devices} of {devices} devices"),
        "(0 never, 0 out of order)".to_owned(),
        " arrived; missing 0, duplicated 0, misordered 0, foreign 0".to_owned(),
    ] {
        assert!(report.out.contains(&part), "{part} in:\n{}", report.out);
    }
    assert!(!report.out.contains("ledger  0 arrived"), "{}", report.out);
}

#[test]
fn the_smallest_file_serves_devices_by_the_commands_in_it() {
    let mut clone = Clone::of(&["config", "certs"]);
    let commands = clone.commands("config/minimal.toml");
    assert_eq!(commands.len(), 4, "{commands:?}");
    let done = clone.follow(&commands);
    served(&done[1], 3);
}

#[test]
fn the_complete_file_serves_a_device_by_the_commands_in_it() {
    let mut clone = Clone::of(&["config", "certs"]);
    let commands = clone.commands("config/gateway.toml");
    assert_eq!(commands.len(), 5, "{commands:?}");
    let done = clone.follow(&commands);
    assert!(
        done[1].out.contains("admitted as load-0"),
        "{}",
        done[1].out
    );
    served(&done[2], 1);
}

/// The fenced blocks of one language in a section, without the indent of a list.
fn blocks(section: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = section.split(&fence).skip(1);
    let inside = parts.map(|part| part.split("```").next().expect("an end"));
    let lines = |block: &str| {
        block
            .lines()
            .map(str::trim_start)
            .collect::<Vec<_>>()
            .join("\n")
    };
    inside.map(lines).collect()
}

/// The front page's steps for a real hub, with the emulator in the hub's place.
#[test]
fn the_steps_for_a_real_hub_serve_a_device() {
    let mut clone = Clone::of(&["config"]);
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(readme).expect("README.md");
    let (_, rest) = readme.split_once("\n## A real hub\n").expect("the section");
    let section = &rest[..rest.find("\n## ").expect("another section")];

    let emulator = fs::read_to_string(clone.folder.path("config/emulator.toml")).expect("text");
    let key = emulator.split("primary_key = \"").nth(1).expect("a key");
    let key = key.split('"').next().expect("its end");
    let pasted = format!(
        "HostName=myhub.azure-devices.net;SharedAccessKeyName=device;SharedAccessKey={key}\n"
    );
    let steps = &blocks(section, "sh")[0];
    let mut shell = clone.folder.command(&format!("set -e\n{steps}"));
    let mut shell = shell.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut input = shell.stdin.take().expect("piped");
    input.write_all(pasted.as_bytes()).expect("taken");
    drop(input);
    assert!(shell.wait().expect("ended").success(), "{steps}");
    for block in blocks(section, "toml") {
        let name = block
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# "));
        clone
            .folder
            .write(name.expect("a name"), &clone.moved(&block));
    }
    let checked = clone.folder.sh("iothub-gateway check -c gateway.toml");
    assert!(
        checked.code == 0 && checked.out.ends_with("gateway.toml is good\n"),
        "{}{}",
        checked.out,
        checked.err
    );

    clone.follow(&["iothub-gateway emulator -c config/emulator.toml".to_owned()]);
    let mut gateway = clone
        .folder
        .command("exec iothub-gateway run -c gateway.toml");
    let hub = format!("amqp://127.0.0.1:{}", clone.port("5672"));
    gateway.env("IOTHUB_GATEWAY__HUB__ENDPOINT", hub);
    clone.keep(gateway);
    clone.up("9464");
    let load = format!(
        "iothub-gateway load --port {} --psk-file fleet.psk --client-id thermo-1 --devices 1 \
         --rate 2 --duration 1s --ledger http://127.0.0.1:{}",
        clone.port("8883"),
        clone.port("5680")
    );
    served(&clone.follow(&[load])[0], 1);
}

/// `deploy/package` without its long build: cargo's place is taken by a copy of this binary.
#[test]
fn the_package_is_a_binary_without_symbols_and_the_symbols_beside_it() {
    let folder = Folder::empty();
    for part in ["deploy", "tools", "target/dist"] {
        fs::create_dir_all(folder.path(part)).expect("folder");
    }
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/package");
    fs::copy(from, folder.path("deploy/package")).expect("copied");
    let built = folder.path("target/dist/iothub-gateway");
    let cargo = format!(
        "#!/bin/sh\necho \"$@\"\ncp {} {}\n",
        env!("CARGO_BIN_EXE_iothub-gateway"),
        built.display()
    );
    folder.write("tools/cargo", &cargo);
    folder.mode("tools/cargo", 0o700);
    let done =
        folder.sh("PATH=$PWD/tools:$PATH; unset CARGO_TARGET_DIR; deploy/package --features x");
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(
        done.out
            .starts_with("build --profile dist --locked --bin iothub-gateway --features x\n"),
        "{}",
        done.out
    );
    let shipped = folder.sh("target/package/iothub-gateway --version");
    assert_eq!(shipped.code, 0, "{}", shipped.err);
    let sections = |file: &str| folder.sh(&format!("readelf -SW target/package/{file}")).out;
    let (binary, symbols) = (sections("iothub-gateway"), sections("iothub-gateway.debug"));
    assert!(
        binary.contains(".gnu_debuglink") && !binary.contains(".debug_line"),
        "{binary}"
    );
    assert!(
        symbols.contains(".debug_line") && symbols.contains(".symtab"),
        "{symbols}"
    );
}
