//! What a process is: one role of a pod (API, worker, generator), or all of them on a laptop (`up`).
//!
//! Here the parts are put together, started and ended in the right order. Nothing here handles a message.

mod ask;
mod credentials;
mod engines;
mod greeting;
mod letters;
mod membership;
mod parts;
mod pod;
mod say;
mod up;

pub use ask::{SwitchFlags, run as switch};
pub use letters::{LetterFlags, run as dlq};
#[cfg(test)]
pub(crate) use parts::{Live, wishes};
pub use pod::{PodFlags, run as pod};
pub use say::{complain, say};
pub use up::{UpFlags, run as up};

use crate::telemetry::FLUSH;
use crate::worker;
use crds::pipeline::{GRACE_SECONDS, PRE_STOP_SECONDS};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long an ending role may take with what is in flight.
const GRACE: Duration = Duration::from_secs(10);
/// How long what was handed to the broker may take to be answered for, at the very end.
const SETTLE: Duration = Duration::from_secs(5);
// The sum of all that an ending pod may take: a pod that is killed before would have to be cleaned up after.
const _: () = assert!(PRE_STOP_SECONDS as u64 + GRACE.as_secs() + SETTLE.as_secs() + FLUSH.as_secs() < GRACE_SECONDS as u64);
const _: () = assert!(GRACE.as_secs() + worker::LEAVING.as_secs() + SETTLE.as_secs() + FLUSH.as_secs() < GRACE_SECONDS as u64);

/// Turns true at the first SIGTERM or SIGINT. A second SIGINT ends the process at once, for a person who will not wait.
fn told_to_stop() -> anyhow::Result<watch::Sender<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = watch::Sender::new(false);
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.send_replace(true);
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
