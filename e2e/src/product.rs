//! A process of the product, started as a user would start it, its output kept in a file.

use crate::bed::{Process, Room, binaries, eventually};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

pub struct Product {
    process: Process,
    log: PathBuf,
}

impl Product {
    /// A command that runs a program of the workspace, with no variable of the caller's that could change what it does.
    pub fn command(program: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binaries::binary(program)?);
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // A test build may be told to drop a rule of the switch: pods and the operator alike.
        command.envs(std::env::var_os("DROP_RULE").map(|rule| ("DROP_RULE", rule)));
        // And it may count which of its lines run.
        command.envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
        Ok(command)
    }

    /// Starts it in the room; what it prints is appended to `<name>.log` there.
    pub fn start(name: &str, room: &Room, mut command: Command) -> Result<Product> {
        let log = room.path().join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        command.current_dir(room.path()).stdout(out.try_clone()?).stderr(out);
        Ok(Product { process: Process::start(&mut command)?, log })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and the exit status, which must come within the grace period.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(within).await
    }

    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.wait(within).await.with_context(|| tail(&self.log))
    }

    /// Waits until a GET answers 200.
    pub async fn ready(&mut self, url: &str, within: Duration) -> Result<()> {
        let client = crate::http(Duration::from_secs(2));
        let process = &mut self.process;
        let answered = eventually(url, within, || {
            let (ended, get) = (process.ended(), client.get(url).send());
            async move {
                // One that has ended never answers, however long it is asked.
                if let Some(status) = ended? {
                    return Ok(Some(status));
                }
                get.await?.error_for_status()?;
                Ok(None)
            }
        })
        .await
        .with_context(|| tail(&self.log))?;
        anyhow::ensure!(answered.is_none(), "it ended: {answered:?}\n{}", tail(&self.log));
        Ok(())
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }

    /// User and system time so far.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        let figures: Vec<&str> = stat.rsplit_once(") ").context("no name")?.1.split(' ').collect();
        let ticks: u64 = figures[11].parse::<u64>()? + figures[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10)) // a hundred a second, on every Linux that this runs on
    }

    /// The ports from which its connections come.
    pub fn ports(&self) -> Result<BTreeSet<u16>> {
        let own: HashSet<String> = std::fs::read_dir(format!("/proc/{}/fd", self.id()))?
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter_map(|at| Some(at.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        // Of each line: number, own address, the other's, state, and in the tenth column the socket.
        let table = std::fs::read_to_string("/proc/net/tcp")?;
        let port = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            own.contains(*columns.get(9)?).then(|| u16::from_str_radix(columns[1].rsplit(':').next()?, 16).ok()).flatten()
        };
        Ok(table.lines().filter_map(port).collect())
    }

    /// Resident memory, in KiB: now, and the most there has been.
    pub fn memory_kib(&self) -> Result<(u64, u64)> {
        Ok((self.figure("VmRSS:")?, self.figure("VmHWM:")?))
    }

    /// Without the pages of the program itself, in KiB: those of a build for tests are twice as many as of what ships.
    pub fn own_memory_kib(&self) -> Result<u64> {
        self.figure("RssAnon:")
    }

    fn figure(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        Ok(line.split_whitespace().nth(1).context("no figure")?.parse()?)
    }
}

fn tail(log: &PathBuf) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
