//! A process of the bed and its folder. Both go when dropped. If the test process itself is killed, a guard, which waits
//! for the end of a pipe from it, does the same. (A parent-death signal will not do: it fires when the *thread* that
//! started the process ends, and tests are threads.)

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A folder of one service, in memory where there is room, since a test's data need not outlive it.
/// With `KEEP_LOGS` set to a folder, by its whole path, what processes printed is kept there.
pub struct Room {
    dir: PathBuf,
    guard: Child,
}

impl Room {
    pub fn new(what: &str) -> Result<Arc<Room>> {
        let shm = Path::new("/dev/shm");
        let parent = if has_room(shm) { shm.to_path_buf() } else { std::env::temp_dir() };
        let dir = parent.join(format!("orderpipeline-{what}-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        // its processes end first: each has a guard of its own
        let guard = guard("sleep 1; rm -rf \"$1\"", &[&dir.to_string_lossy()])?;
        Ok(Arc::new(Room { dir, guard }))
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// All that was printed there, into a folder of its own.
    fn keep_logs(&self, kept: &Path) {
        let kept = kept.join(self.dir.file_name().unwrap_or_default());
        let logs = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = logs.filter(|path| path.ends_with("logs") || path.extension().is_some_and(|extension| extension == "log"));
        let logs: Vec<PathBuf> = logs.collect();
        if logs.is_empty() {
            return;
        }
        let copied = std::fs::create_dir_all(&kept).and_then(|()| Command::new("cp").arg("-r").args(logs).arg(&kept).status());
        eprintln!("logs: {} ({copied:?})", kept.display());
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        end(&mut self.guard);
        if let Some(kept) = std::env::var_os("KEEP_LOGS") {
            self.keep_logs(&PathBuf::from(kept));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Two gigabytes free: three brokers and a database, with some to spare.
fn has_room(dir: &Path) -> bool {
    let Ok(out) = Command::new("df").args(["-Pk"]).arg(dir).output() else { return false };
    let free = String::from_utf8_lossy(&out.stdout).lines().nth(1).and_then(|l| l.split_whitespace().nth(3)?.parse::<u64>().ok());
    free.is_some_and(|kib| kib > 2 << 20)
}

/// A running process, killed when dropped.
pub struct Process {
    child: Child,
    guard: Child,
}

impl Process {
    /// Starts it in a process group of its own, so that Ctrl-C in a terminal reaches the tests and not the services.
    pub fn start(command: &mut Command) -> Result<Process> {
        use std::os::unix::process::CommandExt;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        let guard = guard("kill -9 \"-$1\" 2>/dev/null", &[&child.id().to_string()])?;
        Ok(Process { child, guard })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("sending {signal} to process {id}"))
    }

    /// Its exit, if it has ended.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end, at most so long.
    pub async fn wait(&mut self, within: Duration) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                end(&mut self.guard);
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "process {} has not ended within {within:?}", self.id());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        // The guard first: it must not meet a number that the kernel has given to somebody else.
        end(&mut self.guard);
        end(&mut self.child);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A shell that runs `then` once this process is gone.
fn guard(then: &str, arguments: &[&str]) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    Command::new("sh")
        .args(["-c", &format!("cat > /dev/null; {then}"), "guard"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting a guard")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_the_one_that_started_it() {
        let mut process = Process::start(Command::new("sleep").arg("600")).unwrap();
        drop(process.guard.stdin.take()); // as when this process is gone
        let deadline = Instant::now() + Duration::from_secs(30);
        while process.ended().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it runs on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
