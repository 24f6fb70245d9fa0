//! What a process is: one role of a pod (API, worker, generator), or all of them on a laptop (`up`).
//!
//! Here the parts are put together, started and ended in the right order. Nothing here handles a message.

mod parts;
mod pod;
mod up;

pub use pod::{PodFlags, Role, run as pod};
pub use up::{UpFlags, run as up};

use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long an ending role may take with what is in flight. Below the 30 s that Kubernetes gives a pod by default.
const GRACE: Duration = Duration::from_secs(20);

/// Turns true at the first SIGTERM or SIGINT. A second SIGINT ends the process at once, for a person who will not wait.
fn told_to_stop() -> anyhow::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        interrupt.recv().await;
        std::process::exit(130);
    });
    Ok(stop)
}

/// Ends when the process is told to stop.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which only happens at the end of the process.
    let _ = stop.wait_for(|stop| *stop).await;
}
