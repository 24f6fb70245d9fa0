use crate::publish::States;
use arc_swap::ArcSwap;
use crds::member::BackendRequest;
use crds::runtime_config::RuntimeConfig;
use std::sync::Arc;
use tokio::sync::watch;

/// Where someone who is let in asks for a backend, and sees how it is.
#[derive(Clone)]
pub struct Requests {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub states: States,
    /// Goes to whoever coordinates.
    pub asked: watch::Sender<Option<BackendRequest>>,
}

impl Requests {
    pub fn backends(&self) -> Vec<String> {
        self.config.load().backends.iter().map(|backend| backend.name.0.clone()).collect()
    }
}
