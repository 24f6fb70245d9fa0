//! The gate: whether messages may be handed to the broker now. With one backend it stands open until the pod stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The gate, and the count of what is in flight behind it: from hand-over to the client library until its report.
#[derive(Debug, Default)]
pub struct Gate {
    shut: AtomicBool,
    in_flight: AtomicUsize,
    settled: Notify,
}

/// The pod stops: nothing more is published from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process is stopping and publishes nothing more")]
pub struct Shut;

/// The right to hand over one message; given back by the broker's report.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Gate {
    pub fn open() -> Arc<Gate> {
        Arc::default()
    }

    /// A pass through the gate. It is counted before the gate is looked at, so that [`Gate::settle`] misses none.
    pub fn enter(self: &Arc<Gate>) -> Result<Pass, Shut> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self.clone());
        if self.shut.load(Ordering::SeqCst) { Err(Shut) } else { Ok(pass) }
    }

    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Shuts the gate for good.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }

    /// Waits until nothing is in flight, at most so long. Returns what still is.
    pub async fn settle(&self, at_most: Duration) -> usize {
        let deadline = Instant::now() + at_most;
        loop {
            let settled = self.settled.notified();
            let left = self.in_flight();
            if left == 0 || tokio::time::timeout_at(deadline, settled).await.is_err() {
                return left.min(self.in_flight());
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.settled.notify_waiters();
        }
    }
}
