//! A read-only view of the orders for a pipeline without a database: every event, from the start of its topic, into the
//! process's own bounded store. Nothing is committed, emitted, called back or buried: the workers do that.

use super::health::WorkerHealth;
use super::understand::{Meaning, understand};
use super::{PREFETCH_BYTES, WorkerError, connect, topics};
use crate::broker::{Broker, ConsumerMode, ConsumerOptions, Happening, Incoming};
use crate::contract::Contract;
use crate::store::{Change, Store, StoreError};
use arc_swap::ArcSwap;
use crds::runtime_config::RuntimeConfig;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const RETRY: Duration = Duration::from_millis(200);

pub struct ViewDeps {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
    pub broker: Arc<dyn Broker>,
    /// In memory, bounded by `max_orders`.
    pub store: Arc<dyn Store>,
}

pub async fn view(deps: ViewDeps, shutdown: impl Future<Output = ()> + Send) -> Result<(), WorkerError> {
    let config = deps.config.load_full();
    let topics = topics(&config);
    if topics.is_empty() {
        return Err(WorkerError::NothingToRead);
    }
    let options = ConsumerOptions {
        topics,
        mode: ConsumerMode::All,
        batch_size: 500,
        poll_interval: Duration::from_millis(500),
        prefetch_bytes: PREFETCH_BYTES,
    };
    tokio::pin!(shutdown);
    let read = async {
        let consumer = connect(&*deps.broker, &options, &WorkerHealth::default()).await;
        loop {
            match consumer.next().await {
                Happening::Messages(messages) => see(&deps, &messages).await,
                Happening::Trouble(error) => tracing::warn!(%error, "the view is in trouble; the client goes on trying"),
                // It is in no group: partitions neither come nor go. What is still asked is granted.
                Happening::Revoked { release, .. } => drop(release),
                Happening::Assigned(_) | Happening::Lost(_) | Happening::Idle => {}
            }
        }
    };
    tokio::select! {
        () = &mut shutdown => Ok(()),
        () = read => Ok(()),
    }
}

async fn see(deps: &ViewDeps, messages: &[Incoming]) {
    let (config, contract) = (deps.config.load_full(), deps.contract.load_full());
    let meant = messages.iter().filter_map(|message| match understand(&config, &contract, message) {
        Meaning::Event(event) => Some(event.change),
        _ => None,
    });
    let changes: Vec<Change> = meant.collect();
    if changes.is_empty() || !refused(deps, &changes).await {
        return;
    }
    for change in &changes {
        if refused(deps, std::slice::from_ref(change)).await {
            tracing::debug!(event_id = change.event_id, "the view leaves an event out that its store refuses");
        }
    }
}

/// Applies changes, as often as it takes; true if the store will never take them.
async fn refused(deps: &ViewDeps, changes: &[Change]) -> bool {
    loop {
        match deps.store.apply(changes).await {
            Ok(_) => return false,
            Err(StoreError::Refused(_)) => return true,
            Err(StoreError::Transient(_)) => sleep(RETRY).await,
        }
    }
}
