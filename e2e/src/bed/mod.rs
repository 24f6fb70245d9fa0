//! The test bed: real services on loopback, on free ports, as many at a time as wanted, gone when they are dropped
//! and also when the test process dies. `e2e/prepare` installs what they need.

pub mod binaries;
pub mod collector;
mod control_plane;
mod kafka;
mod postgres;
mod process;
mod registry;
mod rights;

pub use collector::Collector;
pub use control_plane::{Binder, ControlPlane, Write, client_of, lead_through};
pub use kafka::{Kafka, PASSWORD, USER};
pub use postgres::Postgres;
pub use process::{Process, Room};
pub use registry::Registry;
pub use rights::{On, Right};

use anyhow::{Context, Result, bail};
use rand::Rng;
use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a service may take until it is ready: generous, since a loaded machine is ten times slower than an idle one.
pub const READY_WITHIN: Duration = Duration::from_secs(120);

/// A port of loopback that nobody listens on. Below the range that the kernel gives to outgoing connections, so that a
/// service that was killed finds its port free again; never the same one twice in a process.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().map_err(|_| anyhow::anyhow!("a test panicked while it looked for a port"))?;
    let given = given.get_or_insert_default();
    for _ in 0..1000 {
        let port = rand::rng().random_range(10_000..32_000);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port of loopback in a thousand tries")
}

/// Where `e2e/prepare` puts things.
pub fn cache() -> Result<PathBuf> {
    match std::env::var_os("ORDERPIPELINE_CACHE") {
        Some(dir) => Ok(dir.into()),
        None => {
            Ok(PathBuf::from(std::env::var_os("HOME").context("neither ORDERPIPELINE_CACHE nor HOME is set")?).join(".cache/orderpipeline"))
        }
    }
}

/// A folder of the cache, with a hint when it is not there.
pub(crate) fn prepared(what: &str) -> Result<PathBuf> {
    let dir = cache()?.join(what);
    if !dir.exists() {
        bail!("{} is missing: run e2e/prepare", dir.display());
    }
    Ok(dir)
}

/// Asks again and again until the answer is yes, and fails with the last refusal.
pub async fn eventually<T, F: Future<Output = Result<T>>>(what: &str, within: Duration, mut ask: impl FnMut() -> F) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(20);
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(why) if Instant::now() > deadline => return Err(why.context(format!("{what}: not within {within:?}"))),
            // What takes longer is not asked for as often: the machine is busy with it.
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}
