//! Where the live switch has its limits, and what it promises there: targets that cannot work, brokers that are dead, more requests than
//! may wait, a backlog, a pipeline without a database, an API server that says nothing.

mod backlog;
mod dead_broker;
mod mute;
mod no_database;
mod refused;
mod waiting;

use crate::killed::{plan, reached};
use anyhow::{Result, ensure};
use e2e::bed::eventually;
use e2e::fleet::{self, Fleet};
use e2e::ledger;
use e2e::load::{self, Plan, Told};
use e2e::pipeline::{effects, expected, stored_at};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// However busy this machine is.
const SWITCHED: Duration = Duration::from_secs(90);

/// Clients that post orders all the while.
struct Flow {
    told: JoinHandle<Result<Vec<Told>>>,
    progress: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Flow {
    fn start(fleet: &Fleet, name: &str, clients: usize, pace: Duration) -> Flow {
        let (progress, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let plan = Plan {
            key: fleet::KEY.into(),
            clients,
            orders: usize::MAX,
            pace,
            patience: Duration::from_secs(120),
            stop: stop.clone(),
            ..plan(vec![fleet.url()], name)
        };
        Flow { told: tokio::spawn(load::run(plan, progress.clone())), progress, stop }
    }

    /// So many orders more than now.
    async fn goes_on(&self, orders: usize) {
        reached(&self.progress, self.progress.load(Ordering::Relaxed) + orders).await.unwrap();
    }

    /// Until nothing is accepted any more.
    async fn stands_still(&self) {
        let mut last = (self.progress.load(Ordering::Relaxed), Instant::now());
        while last.1.elapsed() < Duration::from_millis(500) {
            sleep(Duration::from_millis(10)).await;
            let now = self.progress.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    }

    async fn end(self) -> Vec<Told> {
        self.stop.store(true, Ordering::Relaxed);
        self.told.await.unwrap().unwrap()
    }
}

/// Waits until as much has taken effect as was promised, and lets the ledger judge.
async fn judge(fleet: &Fleet, told: &[Told], within: Duration) {
    let wanted = expected(told);
    let all = || async {
        let has = effects_now(fleet).await?;
        ensure!(has >= wanted, "{has} of {wanted}");
        Ok(())
    };
    let _ = eventually("everything accepted is stored", within, all).await; // what is missing is the ledger's to say
    let (url, pipeline) = fleet.database();
    let stored = stored_at(&url, &pipeline).await.unwrap();
    ledger::verify(told, &stored).unwrap();
    println!("{} orders, {} effects", stored.len(), effects(&stored));
}

async fn effects_now(fleet: &Fleet) -> Result<usize> {
    let (url, pipeline) = fleet.database();
    let mut database = PgConnection::connect(&url).await?;
    let count =
        format!("SELECT count(*) + COALESCE(sum(jsonb_array_length((fields->'history')::jsonb)), 0)::int8 FROM \"{pipeline}\".orders");
    let effects: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut database).await?;
    Ok(usize::try_from(effects)?)
}
