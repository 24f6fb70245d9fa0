//! The workers of a process: one for each broker that may have to be read. Which of them reads now is part of the switch.

use super::parts::Live;
use super::{GRACE, stopped};
use crate::broker::Broker;
use crate::config::Secrets;
use crate::control::Switching;
use crate::publish::Publisher;
use crate::store::Stores;
use crate::worker::{self, AlertDeps, ReviewDeps, ViewDeps, WorkerDeps, WorkerError, WorkerHealth};
use crds::pipeline::SecretKeyRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

/// A broker that cannot be opened, as a Secret is missing, is tried again after this.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

pub struct Engines {
    pub live: Live,
    pub publisher: Publisher,
    /// None: the pipeline has one backend.
    pub switching: Option<Arc<Switching>>,
    pub stores: Stores,
    /// For the address of the webhook that is told of dead letters.
    pub secrets: Secrets,
}

impl Engines {
    /// Each runs until told to stop.
    pub fn workers(
        &self,
        health: &Arc<WorkerHealth>,
        stop: &watch::Receiver<bool>,
    ) -> Vec<impl Future<Output = Result<(), WorkerError>> + Send + use<>> {
        let worker = |backend: String| {
            let Engines { live, publisher, switching, stores, .. } = self;
            let (live, publisher, switching, store) = (live.clone(), publisher.clone(), switching.clone(), stores.orders.clone());
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

    /// Where dead letters are kept: whoever reads them on each broker, and whoever tells of them. Each runs until told to stop.
    pub fn reviews(&self, health: &Arc<WorkerHealth>, stop: &watch::Receiver<bool>) -> Vec<BoxFuture<'static, Result<(), WorkerError>>> {
        let Some(letters) = &self.stores.letters else { return Vec::new() };
        let alert = Arc::new(Notify::new());
        let review = |backend: String| {
            let (live, publisher, stop) = (self.live.clone(), self.publisher.clone(), stop.clone());
            let (letters, health, alert) = (letters.clone(), health.clone(), alert.clone());
            async move {
                let Some(broker) = opened(&publisher, &backend, &stop).await else { return Ok(()) };
                let deps = ReviewDeps { config: live.config, contract: live.contract, codecs: live.codecs, broker, letters, health, alert };
                worker::review(deps, stopped(stop)).await
            }
            .boxed()
        };
        let mut all: Vec<_> = self.backends().into_iter().map(review).collect();
        let (secrets, config, letters) = (self.secrets.clone(), self.live.config.clone(), letters.clone());
        let secret = Arc::new(move |reference: &SecretKeyRef| secrets.value(reference).map_err(|error| error.to_string()));
        all.push(worker::alerts(AlertDeps { config, letters, health: health.clone(), due: alert, secret }, stopped(stop.clone())).boxed());
        all
    }

    /// The same for processes without a database: views of the orders, each from its broker.
    pub fn views(&self, stop: &watch::Receiver<bool>) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let view = |backend: String| {
            let Engines { live, publisher, switching, stores, .. } = self;
            let (live, publisher, switching, store) = (live.clone(), publisher.clone(), switching.clone(), stores.orders.clone());
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
