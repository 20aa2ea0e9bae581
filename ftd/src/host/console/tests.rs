use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::*;

/// A console in an edge-triggered event loop, as the daemon has it.
struct Loop {
    console: Console,
    poll: Poll,
}

impl Loop {
    fn new(spec: &str) -> Loop {
        let console = Console::open(&spec.parse().unwrap()).unwrap();
        let poll = Poll::new().unwrap();
        let mut source = SourceFd(&console.as_raw_fd());
        poll.registry()
            .register(&mut source, Token(0), Interest::READABLE)
            .unwrap();
        Loop { console, poll }
    }

    /// Takes turns until the console has been quiet for a while.
    fn run(&mut self) -> Turn {
        let mut all = Turn::default();
        let mut events = Events::with_capacity(4);
        loop {
            self.poll
                .poll(&mut events, Some(Duration::from_millis(300)))
                .unwrap();
            if events.is_empty() {
                return all;
            }
            loop {
                let turn = self.console.turn();
                all.input.extend(turn.input);
                all.quit |= turn.quit;
                if !turn.more {
                    break;
                }
            }
        }
    }
}

fn refused(spec: &str) -> String {
    let error = Console::open(&spec.parse().unwrap()).unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    println!("{text}");
    text
}

fn read_available(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buf = [0; 65536];
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    while let Ok(count @ 1..) = stream.read(&mut buf) {
        bytes.extend(&buf[..count]);
    }
    bytes
}

#[test]
fn a_socket_serves_one_client_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let spec = format!("unix:{}", path.display());
    let mut served = Loop::new(&spec);
    served.console.write(b"booting\n");
    let mut first = UnixStream::connect(&path).unwrap();
    first.write_all(b"ls\n").unwrap();
    assert_eq!(served.run().input, b"ls\n");
    assert_eq!(read_available(&mut first), b"booting\n");

    let mut second = UnixStream::connect(&path).unwrap();
    served.run();
    assert!(read_available(&mut second).starts_with(b"ftd: this console is in use"));

    drop(first);
    served.run();
    served.console.write(b"while nobody listens\n");
    let mut third = UnixStream::connect(&path).unwrap();
    served.run();
    assert_eq!(read_available(&mut third), b"while nobody listens\n");
    third.write_all(b"x").unwrap();
    assert_eq!(served.run().input, b"x");
    assert_eq!(served.console.dropped_bytes(), 0);

    assert!(refused(&spec).contains("another process listens on"));
    drop(served);
    assert!(!path.exists());
}

#[test]
fn a_slow_client_neither_blocks_nor_grows_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut served = Loop::new(&format!("unix:{}", path.display()));
    let mut client = UnixStream::connect(&path).unwrap();
    served.run();
    let written: Vec<u8> = (0..2_000_000u32).map(|i| (i / 7) as u8).collect();
    for chunk in written.chunks(1000) {
        served.console.write(chunk);
    }
    let dropped = served.console.dropped_bytes();
    assert!(dropped > 1_000_000, "{dropped}");
    let mut bytes = read_available(&mut client);
    while !served.console.backlog.is_empty() {
        // Room to write again wakes the loop by itself.
        served.run();
        bytes.extend(read_available(&mut client));
    }
    assert_eq!(
        bytes.len() as u64 + served.console.dropped_bytes(),
        2_000_000
    );
    assert_eq!(bytes[bytes.len() - 200_000..], written[1_800_000..]);
}

#[test]
fn paths_that_are_taken_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let spec = format!("unix:{}", path.display());
    std::fs::write(&path, "precious").unwrap();
    assert!(refused(&spec).contains("is not a socket"));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    // The socket of a process that died without removing it.
    drop(UnixListener::bind(&path).unwrap());
    drop(Loop::new(&spec));
    let missing = dir.path().join("none/console");
    for kind in ["unix", "file"] {
        let text = refused(&format!("{kind}:{}", missing.display()));
        assert!(text.contains(missing.to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_file_is_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for text in ["one\n", "two\n"] {
        let spec = format!("file:{}", path.display());
        let mut console = Console::open(&spec.parse().unwrap()).unwrap();
        console.write(text.as_bytes());
        assert_eq!(console.turn(), Turn::default());
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    if Path::new("/dev/full").exists() {
        let mut console = Console::open(&"file:/dev/full".parse().unwrap()).unwrap();
        console.write(b"lost");
        assert_eq!(console.dropped_bytes(), 4);
    }
}

/// Set in the child whose standard input and output are the console.
const CHILD: &str = "FTD_TEST_STDIO";

/// What the child says when it listens.
const READY: &[u8] = b"<ready>";

/// Waits for the child, types at it, and returns what it says after that and its success.
fn converse(mut child: Child, typed: &[u8]) -> (String, bool) {
    let mut stdout = child.stdout.take().unwrap();
    let mut said = Vec::new();
    while !said.ends_with(READY) {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed).unwrap();
    // The output fills the pipe and more before anybody reads it.
    std::thread::sleep(Duration::from_millis(800));
    drop(stdin);
    let mut text = Vec::new();
    stdout.read_to_end(&mut text).unwrap();
    let success = child.wait().unwrap().success();
    (String::from_utf8_lossy(&text).into_owned(), success)
}

fn child() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "host::console::tests::stdio_child",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "1");
    command
}

/// Echoes what is typed, in upper case, until the input ends or is quiet.
#[test]
fn stdio_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut served = Loop::new("stdio");
    served.console.write(READY);
    let turn = served.run();
    served.console.write(&turn.input.to_ascii_uppercase());
    served
        .console
        .write(if turn.quit { b"<quit>" } else { b"<stay>" });
    for _ in 0..100 {
        served.console.write(&[b'~'; 1000]);
    }
    // A reader that comes late finds it all.
    while !served.console.backlog.is_empty() {
        served.run();
    }
    assert_eq!(served.console.dropped_bytes(), 0);
}

#[test]
fn standard_input_and_output_as_pipes() {
    let mut command = child();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let (text, success) = converse(command.spawn().unwrap(), b"hello\x01x");
    assert!(success, "{text}");
    // In a pipe nothing is an escape.
    assert!(text.contains("HELLO\x01X<stay>"), "{text}");
    assert_eq!(text.matches('~').count(), 100_000);
}

#[test]
fn standard_input_from_nowhere() {
    let output = child().stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("<stay>"));
}

#[test]
fn a_terminal_sends_every_key_and_is_restored() {
    // script(1) gives the child a terminal.
    let exe = std::env::current_exe().unwrap();
    let inner = format!(
        "{} host::console::tests::stdio_child --exact --nocapture; stty -a",
        exe.display()
    );
    let spawned = Command::new("script")
        .args(["-qec", &inner, "/dev/null"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            println!("skipped: script: {error}");
            return;
        }
    };
    // Ctrl-C is a key like any other.
    let (text, _) = converse(child, b"k\x03\x01a\x01x");
    assert!(text.contains("K\x03\x01<quit>"), "{text}");
    assert_eq!(text.matches('~').count(), 100_000);
    assert!(
        text.contains("\nisig icanon") && text.contains(" echo "),
        "{text}"
    );
}
