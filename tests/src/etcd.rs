//! A real etcd, of one member, on the loopback interface.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::guests::text;
use crate::pair::free_address;
use crate::program::wait_for;

/// One, with its data.
#[derive(Debug)]
pub struct Etcd {
    directory: tempfile::TempDir,
    clients: String,
    peers: String,
    child: Option<Child>,
}

impl Etcd {
    /// Starts it, if it is installed (Debian's etcd-server).
    pub fn start() -> Option<Etcd> {
        if !Path::new("/usr/bin/etcd").exists() {
            eprintln!("SKIPPED: etcd is not installed");
            return None;
        }
        let mut etcd = Etcd {
            directory: tempfile::tempdir().expect("a temporary directory"),
            clients: free_address(),
            peers: free_address(),
            child: None,
        };
        etcd.start_again();
        Some(etcd)
    }

    /// As `--shared` names it.
    pub fn shared(&self) -> String {
        format!("etcd:http://{}/test", self.clients)
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a process to kill");
            child.wait().expect("a process to wait for");
        }
    }

    /// Starts it with the data that it had, and waits until it answers.
    pub fn start_again(&mut self) {
        let (clients, peers) = (
            format!("http://{}", self.clients),
            format!("http://{}", self.peers),
        );
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a log");
        let child = Command::new("/usr/bin/etcd")
            .args(["--name", "test", "--data-dir"])
            .arg(text(&self.directory.path().join("data")))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args(["--initial-cluster", &format!("test={peers}")])
            // What is tested is not how a disk keeps data over a power cut.
            .args(["--unsafe-no-fsync", "--auto-compaction-retention", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd runs");
        self.child = Some(child);
        wait_for("etcd", || self.is_well().then_some(()));
    }

    fn is_well(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.clients)?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
