//! A throw-away PostgreSQL: user postgres, no password, loopback only.

use super::{Process, READY_WITHIN, Room, eventually, free_port};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sqlx::{ConnectOptions, Connection};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub struct Postgres {
    port: u16,
    // before the room, so that the process ends before its folder goes
    process: Mutex<Option<Process>>,
    room: Arc<Room>,
}

impl Postgres {
    pub async fn start() -> Result<Postgres> {
        let room = Room::new("postgres")?;
        as_owner(&room, &program("initdb")?, |c| {
            c.args(["-A", "trust", "-U", "postgres", "--no-sync", "--locale=C.UTF-8", "-D"]).arg(room.path().join("data"));
        })?
        .output()
        .context("running initdb")
        .and_then(|out| if out.status.success() { Ok(()) } else { bail!("initdb: {}", String::from_utf8_lossy(&out.stderr)) })?;
        let postgres = Postgres { port: free_port()?, process: Mutex::default(), room };
        postgres.restart().await?;
        Ok(postgres)
    }

    pub fn url(&self) -> String {
        Postgres::url_at(self.port)
    }

    /// Through a proxy at this port.
    pub fn url_at(port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// kill -9 of the server, and of its backends, which would answer for a moment longer.
    pub fn kill(&self) {
        let Some(server) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.id())).unwrap_or_default();
        drop(server);
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
            // One that has ended by itself is gone already.
            let _ = nix::sys::signal::kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }

    /// Starts it again, on the same port and data, and waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        self.launch()?;
        let options = sqlx::postgres::PgConnectOptions::from_str(&self.url())?.disable_statement_logging();
        eventually("PostgreSQL answers", READY_WITHIN, || async {
            if let Some(status) = self.ended()? {
                let log = std::fs::read_to_string(self.room.path().join("log"))?;
                // Of a server that was killed the last backends notice it a little later.
                if log.lines().rev().take(3).any(|line| line.contains("pre-existing shared memory block")) {
                    self.launch()?;
                }
                bail!("postgres ended ({status}): {log}");
            }
            Ok(options.connect().await?.close().await?)
        })
        .await
    }

    fn launch(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.room.path().join("log"))?;
        let mut command = as_owner(&self.room, &program("postgres")?, |c| {
            c.arg("-D").arg(self.room.path().join("data"));
            c.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=64MB", "-c", "max_connections=200"]);
            // kept in its own folder, where a killed server leaves it to nobody's harm
            c.args(["-c", "dynamic_shared_memory_type=mmap"]);
            c.arg("-c").arg(format!("port={}", self.port));
            c.arg("-c").arg(format!("unix_socket_directories={}", self.room.path().display()));
        })?;
        command.stdout(log.try_clone()?).stderr(log);
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(Process::start(&mut command)?);
        Ok(())
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map_or(Ok(None), Process::ended)
    }
}

impl Drop for Postgres {
    /// Lets the server end its own children first; if it does not, it is killed like everything else here.
    fn drop(&mut self) {
        if let Some(process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let _ = process.signal(Signal::SIGQUIT);
            let deadline = Instant::now() + Duration::from_secs(2);
            while Instant::now() < deadline && matches!(process.ended(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A program of PostgreSQL: on the path, or where Debian puts it; the newest.
fn program(name: &str) -> Result<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = debian.map(|dir| dir.join(name)).filter(|p| p.is_file()).collect();
    found.sort();
    found
        .pop()
        .or_else(|| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file()))
        .with_context(|| format!("{name} of PostgreSQL is not installed: run e2e/prepare"))
}

/// PostgreSQL refuses to run as root: then it runs as user postgres, who also owns the folder.
fn as_owner(room: &Room, program: &Path, arguments: impl FnOnce(&mut Command)) -> Result<Command> {
    let mut command;
    if std::fs::metadata("/proc/self")?.uid() == 0 {
        let owned = Command::new("chown").arg("postgres:").arg(room.path()).status()?;
        ensure!(owned.success(), "the folder cannot be given to user postgres: run e2e/prepare, which installs PostgreSQL");
        command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    } else {
        command = Command::new(program);
    }
    arguments(&mut command);
    command.current_dir(room.path());
    Ok(command)
}
