//! Whether a process lives, and whether it stands still. What stands still does nothing that anybody can see: what it does goes
//! through brokers, store and API server, and these look here first.

use std::sync::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

#[derive(Default)]
pub struct Pulse {
    still_until: Mutex<Option<Instant>>,
    kill: Notify,
}

impl Pulse {
    pub fn stall(&self, until: Instant) {
        *self.still_until.lock().unwrap() = Some(until);
    }

    pub fn still(&self) -> bool {
        self.until().is_some()
    }

    fn until(&self) -> Option<Instant> {
        self.still_until.lock().unwrap().filter(|until| Instant::now() < *until)
    }

    /// Until it goes on.
    pub async fn awake(&self) {
        while let Some(until) = self.until() {
            sleep_until(until).await;
        }
    }

    pub fn kill(&self) {
        self.kill.notify_one();
    }

    pub async fn killed(&self) {
        self.kill.notified().await;
    }
}
