//! The states that a gate obeys, as they come, for all who follow them.
//!
//! As tokio's `watch`, but who waits is woken in the order in which they came: tokio's takes them at random, and a simulated run could
//! not be run again.

use crds::switch::SwitchState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

struct Told {
    /// The latest, and how many times something was told.
    latest: Mutex<(Arc<SwitchState>, u64)>,
    news: Notify,
}

impl Told {
    fn latest(&self) -> MutexGuard<'_, (Arc<SwitchState>, u64)> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gate's end.
pub(super) struct Teller(Arc<Told>);

/// The other end, of which there may be any number.
#[derive(Clone)]
pub struct States {
    told: Arc<Told>,
    seen: u64,
}

impl Teller {
    pub fn new(state: Arc<SwitchState>) -> Teller {
        Teller(Arc::new(Told { latest: Mutex::new((state, 0)), news: Notify::new() }))
    }

    pub fn tell(&self, state: Arc<SwitchState>) {
        {
            let mut latest = self.0.latest();
            *latest = (state, latest.1 + 1);
        }
        self.0.news.notify_waiters();
    }

    /// Those who wait look again, though the state is the same.
    pub fn wake(&self) {
        self.0.latest().1 += 1;
        self.0.news.notify_waiters();
    }

    pub fn follow(&self) -> States {
        let seen = self.0.latest().1;
        States { told: self.0.clone(), seen }
    }
}

impl States {
    /// The latest one.
    pub fn borrow(&self) -> Arc<SwitchState> {
        self.told.latest().0.clone()
    }

    /// Until something was told since the last call, or since this end was made. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            // Before it is looked at: what is told in between wakes it too.
            let news = self.told.news.notified();
            let told = self.told.latest().1;
            if self.seen != told {
                self.seen = told;
                return;
            }
            news.await;
        }
    }

    /// The first that fits, from the latest one on. Cancel-safe.
    pub async fn wait_for(&mut self, fits: impl Fn(&SwitchState) -> bool) -> Arc<SwitchState> {
        loop {
            let latest = self.borrow();
            if fits(&latest) {
                return latest;
            }
            self.changed().await;
        }
    }
}
