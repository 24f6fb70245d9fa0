//! The workers of a process: one for each broker that may have to be read. Which of them reads now is part of the switch.

use super::parts::Live;
use super::{GRACE, stopped};
use crate::broker::Broker;
use crate::control::Switching;
use crate::publish::Publisher;
use crate::store::Store;
use crate::worker::{self, ViewDeps, WorkerDeps, WorkerError, WorkerHealth};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// A broker that cannot be opened, as a Secret is missing, is tried again after this.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

pub struct Engines {
    pub live: Live,
    pub publisher: Publisher,
    /// None: the pipeline has one backend.
    pub switching: Option<Arc<Switching>>,
    pub store: Arc<dyn Store>,
}

impl Engines {
    /// Each runs until told to stop.
    pub fn workers(
        &self,
        health: &Arc<WorkerHealth>,
        stop: &watch::Receiver<bool>,
    ) -> Vec<impl Future<Output = Result<(), WorkerError>> + Send + use<>> {
        let worker = |backend: String| {
            let Engines { live, publisher, switching, store } = self;
            let (live, publisher, switching, store) = (live.clone(), publisher.clone(), switching.clone(), store.clone());
            let (health, stop) = (health.clone(), stop.clone());
            async move {
                let Some(broker) = opened(&publisher, &backend, &stop).await else { return Ok(()) };
                let deps = WorkerDeps {
                    config: live.config,
                    contract: live.contract,
                    codecs: live.codecs,
                    broker,
                    publisher,
                    switching,
                    store,
                    health,
                    limits: worker::Limits::default(),
                    grace: GRACE,
                };
                worker::run(deps, stopped(stop)).await
            }
        };
        self.backends().into_iter().map(worker).collect()
    }

    /// The same for processes without a database: views of the orders, each from its broker.
    pub fn views(&self, stop: &watch::Receiver<bool>) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let view = |backend: String| {
            let Engines { live, publisher, switching, store } = self;
            let (live, publisher, switching, store) = (live.clone(), publisher.clone(), switching.clone(), store.clone());
            let stop = stop.clone();
            async move {
                let Some(broker) = opened(&publisher, &backend, &stop).await else { return };
                let deps = ViewDeps { config: live.config, contract: live.contract, codecs: live.codecs, broker, switching, store };
                if let Err(error) = worker::view(deps, stopped(stop)).await {
                    tracing::error!(backend, %error, "no view of the orders");
                }
            }
        };
        self.backends().into_iter().map(view).collect()
    }

    fn backends(&self) -> Vec<String> {
        match self.switching {
            Some(_) => self.live.config.load().backends.iter().map(|backend| backend.name.0.clone()).collect(),
            None => vec![self.publisher.broker().name().to_owned()],
        }
    }
}

/// None: the process was told to stop before.
async fn opened(publisher: &Publisher, backend: &str, stop: &watch::Receiver<bool>) -> Option<Arc<dyn Broker>> {
    let mut said = false;
    loop {
        match publisher.brokers().get(backend) {
            Ok(broker) => return Some(broker),
            Err(why) if !said => tracing::warn!(backend, "the backend cannot be read: {why}"),
            Err(_) => {}
        }
        said = true;
        tokio::select! {
            () = sleep(OPEN_AGAIN) => {}
            () = stopped(stop.clone()) => return None,
        }
    }
}
