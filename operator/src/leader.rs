//! One operator at a time, by a Lease. Whether its holder is gone is judged by this process' own clock: by how long the Lease has
//! not changed, not by the time that stands in it.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep, timeout};

const NAME: &str = "orderpipeline-operator";

pub struct Election {
    pub leases: Api<Lease>,
    pub identity: String,
    /// After so long without a sign of life another one takes over.
    pub duration: Duration,
}

/// The Lease as this process last saw it changed.
struct Sighting {
    resource_version: Option<String>,
    since: Instant,
}

impl Election {
    /// Returns once this process leads. Waits as long as it takes: a standby has nothing else to do.
    pub async fn win(&self) {
        let mut seen = Sighting { resource_version: None, since: Instant::now() };
        loop {
            match timeout(self.duration, self.try_once(&mut seen)).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be read or taken"),
                Err(_) => tracing::warn!("the API server gives no answer about the Lease"),
            }
            sleep(self.duration / 5).await;
        }
    }

    /// Keeps the Lease; returns when it could not be kept, and then this process must stop before another one starts.
    pub async fn hold(&self) {
        let mut ticks = interval(self.duration / 5);
        let mut held = Instant::now();
        let mut seen = Sighting { resource_version: None, since: Instant::now() };
        // two thirds: there has to be time left in which to stop
        let patience = self.duration * 2 / 3;
        while held.elapsed() < patience {
            ticks.tick().await;
            let begun = Instant::now();
            match timeout(patience.saturating_sub(held.elapsed()), self.try_once(&mut seen)).await {
                Ok(Ok(true)) => held = begun,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be renewed"),
                Err(_) => return,
            }
        }
    }

    /// So that the next one need not wait.
    pub async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.leases.get_opt(NAME).await? else { return Ok(()) };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity)) {
            spec.holder_identity = None;
            self.leases.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    async fn try_once(&self, seen: &mut Sighting) -> kube::Result<bool> {
        let now = Some(MicroTime(Timestamp::now()));
        let taken = match self.leases.get_opt(NAME).await? {
            None => {
                let spec = self.spec(now, 0);
                let lease = Lease { metadata: ObjectMeta { name: Some(NAME.into()), ..Default::default() }, spec: Some(spec) };
                self.leases.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                if seen.resource_version != lease.metadata.resource_version {
                    *seen = Sighting { resource_version: lease.metadata.resource_version.clone(), since: Instant::now() };
                }
                let spec = lease.spec.clone().unwrap_or_default();
                let mine = spec.holder_identity.as_ref() == Some(&self.identity);
                let free = spec.holder_identity.as_deref().unwrap_or_default().is_empty() || seen.since.elapsed() >= self.duration;
                if !mine && !free {
                    return Ok(false);
                }
                let transitions = spec.lease_transitions.unwrap_or_default();
                let mut next = self.spec(now, if mine { transitions } else { transitions.saturating_add(1) });
                if mine {
                    next.acquire_time = spec.acquire_time;
                }
                lease.spec = Some(next);
                self.leases.replace(NAME, &PostParams::default(), &lease).await // under its resourceVersion: one of two wins
            }
        };
        match taken {
            Ok(lease) => {
                *seen = Sighting { resource_version: lease.metadata.resource_version, since: Instant::now() };
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, now: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(transitions),
            ..Default::default()
        }
    }
}
