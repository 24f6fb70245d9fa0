//! The operator's process, started again when it has ended, as its Deployment would.

use crate::bed::{Room, eventually, free_port};
use crate::product::Product;
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub(super) const NAMESPACE: &str = "orderpipeline-system";
const READY: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

pub struct Operator {
    process: Arc<Mutex<Product>>,
    keeping: JoinHandle<()>,
}

impl Operator {
    pub async fn start(room: Arc<Room>, kubeconfig: PathBuf) -> Result<Operator> {
        let process = Arc::new(Mutex::new(started(&room, &kubeconfig).await?));
        let kept = process.clone();
        let keeping = tokio::spawn(async move {
            loop {
                sleep(LOOK).await;
                if !matches!(lock(&kept).ended(), Ok(Some(_))) {
                    continue;
                }
                match started(&room, &kubeconfig).await {
                    Ok(again) => *lock(&kept) = again,
                    Err(error) => eprintln!("the operator does not start again: {error:#}"),
                }
            }
        });
        Ok(Operator { process, keeping })
    }

    /// kill -9, and another one at once.
    pub async fn replace(&self) -> Result<()> {
        let before = self.process().id();
        self.process().kill();
        let replaced = || async {
            ensure!(self.process().id() != before, "the operator is not started again");
            Ok(())
        };
        eventually("another operator", READY, replaced).await
    }

    pub fn printed(&self) -> String {
        self.process().printed()
    }

    pub fn tail(&self) -> String {
        self.process().tail()
    }

    fn process(&self) -> MutexGuard<'_, Product> {
        lock(&self.process)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.keeping.abort();
        self.process().kill();
    }
}

fn lock(process: &Mutex<Product>) -> MutexGuard<'_, Product> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn started(room: &Room, kubeconfig: &Path) -> Result<Product> {
    let port = free_port()?.to_string();
    let arguments = ["run", "--lease-seconds", "5", "--lease-namespace", NAMESPACE, "--health-port", &port];
    let mut command = Product::command("operator", &arguments)?;
    command.env("KUBECONFIG", kubeconfig);
    let mut operator = Product::start("operator", room, command)?;
    operator.ready(&format!("http://127.0.0.1:{port}/healthz"), READY).await?;
    Ok(operator)
}
