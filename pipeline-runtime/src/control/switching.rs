use crate::publish::States;
use crds::switch::{Reader, Rules};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// The state that this process obeys, and what its workers have to say of it. One for a process, whatever it reads from.
pub struct Switching {
    /// What the gate has taken as news: nothing older follows.
    states: States,
    reader: Mutex<Reader>,
    news: Notify,
}

impl Switching {
    pub fn new(states: States, rules: Rules) -> Arc<Switching> {
        let reader = Reader::new(rules, states.borrow());
        Arc::new(Switching { states, reader: Mutex::new(reader), news: Notify::new() })
    }

    pub fn states(&self) -> States {
        self.states.clone()
    }

    /// The reader, at the state that is obeyed now.
    pub fn reader<T>(&self, look: impl FnOnce(&mut Reader) -> T) -> T {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.states.borrow();
        if !Arc::ptr_eq(&state, reader.state()) {
            reader.obey(state);
        }
        look(&mut reader)
    }

    /// There is something new to report: seals are acknowledged, or a broker is drained.
    pub fn tell(&self) {
        self.news.notify_one();
    }

    /// Until there is something new to report.
    pub async fn told(&self) {
        self.news.notified().await;
    }
}
