//! Orders in SQLite, in a file or in memory: the store of `up`, and of a pipeline that is only tried.
//!
//! There is one writer, so nothing has to be held: a batch is one transaction that reads what the plan depends on and writes what it
//! says. Many rows travel as one JSON array.

mod claims;
mod letters;
mod read;
mod tidy;
mod write;

use super::check::{Checked, check};
use super::failure::failed;
use super::letters::{Content, Failed, FailedMessages, FailedPage, Filter, Letter};
use super::plan::plan;
use super::{Applied, Change, Claim, Expired, Order, Page, Query, Store, StoreError};
use crate::sqlite::{Database, Place};
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::migrate::Migrator;
use sqlx::{Connection, SqliteConnection};
use std::time::Duration;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
/// The embedded broker has tables of its own in the same file, and versions of its own.
const MIGRATIONS_TABLE: &str = "_store_migrations";
const DEADLINE: Duration = Duration::from_secs(30);

pub struct SqliteStore {
    database: Database,
    /// The most orders kept; the oldest go first.
    max_orders: Option<u32>,
    owner: String,
}

impl SqliteStore {
    pub async fn open(place: &Place, max_orders: Option<u32>) -> Result<SqliteStore, StoreError> {
        let database = Database::open(place).await.map_err(|e| StoreError::Transient(e.to_string()))?;
        Ok(SqliteStore::on(database, max_orders))
    }

    /// In a database that others use too.
    pub fn on(database: Database, max_orders: Option<u32>) -> SqliteStore {
        SqliteStore { database, max_orders: max_orders.map(|max| max.max(1)), owner: uuid::Uuid::new_v4().to_string() }
    }

    /// Waits until all connections are given back, and ends them, also for others who use this database.
    pub async fn close(&self) {
        self.database.close().await;
    }

    async fn apply_now(&self, batch: &[Change]) -> Result<Vec<Applied>, StoreError> {
        let mut connection = self.database.writer.acquire().await.map_err(|e| failed("waiting for the writing connection", e))?;
        self.apply_on(&mut connection, batch).await
    }

    async fn apply_on(&self, connection: &mut SqliteConnection, batch: &[Change]) -> Result<Vec<Applied>, StoreError> {
        let checked: Vec<Result<Checked, String>> = batch.iter().map(check).collect();
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|e| failed("beginning a transaction", e))?;
        let (known, early) = read::read(&mut transaction, &checked).await?;
        let early: Vec<Checked> = early.iter().map(check).filter_map(Result::ok).collect();
        let plan = plan(&checked, known, &early);
        write::write(&mut transaction, &plan, &now()).await?;
        if let Some(max) = self.max_orders {
            tidy::bound(&mut transaction, max).await?;
        }
        transaction.commit().await.map_err(|e| failed("committing", e))?;
        Ok(plan.outcomes)
    }
}

/// Nothing waits for ever, not even for a disk.
async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(StoreError::Transient(format!("SQLite has not answered within {DEADLINE:?}"))))
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn now() -> String {
    text(Utc::now())
}

/// The time so long from now.
fn after(span: Duration) -> String {
    let then = chrono::Duration::from_std(span).ok().and_then(|span| Utc::now().checked_add_signed(span));
    text(then.unwrap_or(DateTime::<Utc>::MAX_UTC))
}

/// The time that long ago.
fn before(span: Duration) -> String {
    let now = Utc::now();
    text(chrono::Duration::from_std(span).ok().and_then(|span| now.checked_sub_signed(span)).unwrap_or(DateTime::UNIX_EPOCH))
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        let migrator = Migrator {
            migrations: MIGRATIONS.migrations.clone(),
            ignore_missing: true,
            table_name: MIGRATIONS_TABLE.into(),
            ..Migrator::DEFAULT
        };
        within(async {
            let mut connection = self.database.writer.acquire().await.map_err(|e| failed("opening SQLite", e))?;
            let made = migrator.run_direct(None, &mut *connection as &mut SqliteConnection, false).await;
            made.map_err(|e| StoreError::Transient(format!("making the tables: {e}")))
        })
        .await
    }

    async fn apply(&self, batch: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        within(self.apply_now(batch)).await
    }

    async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        within(read::order(&self.database.readers, id)).await
    }

    async fn recent(&self, query: &Query) -> Result<Page, StoreError> {
        within(read::recent(&self.database.readers, query)).await
    }

    async fn claim(&self, request: &str, body_hash: [u8; 32], lease: Duration) -> Result<Claim, StoreError> {
        within(claims::claim(&self.database.writer, &self.owner, request, body_hash, lease)).await
    }

    async fn settle_claim(&self, request: &str, answer: &str) -> Result<(), StoreError> {
        within(claims::settle(&self.database.writer, request, answer)).await
    }

    async fn release_claim(&self, request: &str) -> Result<(), StoreError> {
        within(claims::release(&self.database.writer, &self.owner, request)).await
    }

    async fn leave_claim(&self, request: &str) -> Result<(), StoreError> {
        within(claims::leave(&self.database.writer, &self.owner, request)).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        if let Some(why) = self.database.gone() {
            return Err(StoreError::Away(why));
        }
        let asked = sqlx::query("SELECT 1").execute(&self.database.readers);
        within(async { asked.await.map(drop).map_err(|e| failed("asking SQLite", e)) }).await
    }

    async fn tidy(&self, keep: Duration) -> Result<bool, StoreError> {
        within(tidy::tidy(&self.database.writer, keep)).await
    }

    async fn expired(&self, keep: Duration) -> Result<Vec<Expired>, StoreError> {
        within(tidy::expired(&self.database.writer, keep)).await
    }

    async fn forget(&self, event_ids: &[String]) -> Result<(), StoreError> {
        within(tidy::forget(&self.database.writer, event_ids)).await
    }
}

#[async_trait]
impl FailedMessages for SqliteStore {
    async fn keep(&self, letters: &[Letter]) -> Result<u64, StoreError> {
        within(letters::keep(&self.database.writer, letters)).await
    }

    async fn list(&self, filter: &Filter, below: Option<i64>, limit: u32) -> Result<FailedPage, StoreError> {
        within(letters::list(&self.database.readers, filter, below, limit)).await
    }

    async fn show(&self, id: &str) -> Result<Option<(Failed, Content)>, StoreError> {
        within(letters::show(&self.database.readers, id)).await
    }

    async fn first_above(&self, filter: &Filter, above: i64) -> Result<Option<(Failed, Content)>, StoreError> {
        within(letters::first_above(&self.database.readers, filter, above)).await
    }

    async fn note_replay(&self, id: &str, by: &str) -> Result<(), StoreError> {
        within(letters::note_replay(&self.database.writer, id, by)).await
    }

    async fn alerts(&self, most: u32) -> Result<Vec<(Failed, u32)>, StoreError> {
        within(letters::alerts(&self.database.writer, most)).await
    }

    async fn note_alert(&self, id: &str) -> Result<(), StoreError> {
        within(letters::note_alert(&self.database.writer, id)).await
    }

    async fn note_alert_failure(&self, id: &str, reason: &str, tried: bool, again: Option<Duration>) -> Result<(), StoreError> {
        within(letters::note_alert_failure(&self.database.writer, id, reason, tried, again)).await
    }

    async fn forget_letters(&self, keep: Duration, replayed: Duration, most: i64) -> Result<u64, StoreError> {
        within(letters::forget(&self.database.writer, keep, replayed, most)).await
    }
}

#[cfg(test)]
mod tests;
