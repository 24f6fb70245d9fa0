//! What a pod writes to, and how it takes part in the switch between several backends.

use super::parts::{Beside, Live, needs};
use crate::control::kubernetes::{self, Member};
use crate::control::{Requests, Switching};
use crate::publish::{Brokers, Gate, Publisher};
use anyhow::Context;
use chrono::{DateTime, Utc};
use crds::Role;
use crds::runtime_config::RuntimeConfig;
use crds::switch::Rules;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// The way to the brokers of a pod.
pub struct Membership {
    pub publisher: Publisher,
    /// None: there is one backend, or nobody tells this process of a switch.
    pub switching: Option<Arc<Switching>>,
    member: Option<(Arc<Member>, AbortHandle)>,
}

/// Which pod this is, as the operator lets it know.
fn pod() -> Option<(String, String)> {
    Some((std::env::var("POD_NAME").ok()?, std::env::var("POD_UID").ok()?))
}

impl Membership {
    /// Takes part if there is something to take part in. Waits for the API server as long as it takes.
    pub async fn begin(
        config: &RuntimeConfig,
        role: Role,
        brokers: Arc<Brokers>,
        file: PathBuf,
        started: DateTime<Utc>,
        beside: &mut Beside,
    ) -> anyhow::Result<Membership> {
        let alone = |brokers: Arc<Brokers>| {
            let broker = brokers.get(&config.backend).map_err(anyhow::Error::msg)?;
            Ok(Membership { publisher: Publisher::among(brokers, broker, Gate::open()), switching: None, member: None })
        };
        if config.backends.len() < 2 {
            return alone(brokers);
        }
        let Some((name, uid)) = pod() else {
            tracing::warn!(
                backend = config.backend,
                "POD_NAME and POD_UID are not set: this process is no pod of the operator, takes part in no switch and stays on this backend"
            );
            return alone(brokers);
        };
        let client = kube::Client::try_default().await.context("finding the API server, which tells of switches")?;
        let member = kubernetes::join(kubernetes::Pod { client, name, uid, started, file }, config, kind(role)).await;
        let gate = member.gate().clone();
        let states = gate.states().context("a gate that obeys a switch tells of its states")?;
        let writing = states.borrow().newest().backend.clone();
        let broker = brokers.get(&writing).map_err(anyhow::Error::msg)?;
        let publisher = Publisher::among(brokers, broker, gate);
        let switching = Switching::new(states, Rules::in_force());
        let member = Arc::new(member);
        let (running, needs) = (member.clone(), needs(config, &[role]));
        let (told, obeyed) = (publisher.clone(), switching.clone());
        let task = beside.spawn(async move { running.run(told, obeyed, needs).await });
        tracing::info!(backend = &*writing, "this pod takes part in switches between {} backends", config.backends.len());
        Ok(Membership { publisher, switching: Some(switching), member: Some((member, task)) })
    }

    /// Where someone may ask this pod for another backend.
    pub fn requests(&self, live: &Live) -> Option<Requests> {
        let (member, _) = self.member.as_ref()?;
        let states = self.publisher.gate().states()?;
        Some(Requests { config: live.config.clone(), states, asked: member.requests() })
    }

    /// When nothing more is written by this process: nobody has to wait for it.
    pub async fn end(self) {
        if let Some((member, task)) = self.member {
            task.abort();
            member.leave().await;
        }
    }
}

fn kind(role: Role) -> crds::member::Role {
    match role {
        Role::Api => crds::member::Role::Api,
        Role::Worker => crds::member::Role::Worker,
        Role::Generator => crds::member::Role::Generator,
    }
}
