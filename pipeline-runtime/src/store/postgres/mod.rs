//! Orders in PostgreSQL: a schema for each pipeline, a small pool that connects when it is used and heals by itself.
//!
//! A batch is one transaction: `lock` takes (or makes) the rows of its orders in the order of their ids, `read` gets what else the plan
//! depends on, `write` carries the plan out. Each is one statement for each kind of row, over arrays.

mod claims;
mod column;
mod letters;
mod lock;
mod orders;
mod read;
mod stamp;
mod tidy;
mod write;

use super::check::{Checked, check};
use super::failure::failed;
use super::letters::{Content, Failed, FailedMessages, FailedPage, Filter, Letter};
use super::plan::plan;
use super::{Applied, Change, Claim, Expired, Order, Page, Query, Store, StoreError};
use async_trait::async_trait;
use lock::Care;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, Postgres};
use sqlx::{ConnectOptions, Connection};
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::time::Duration;
use tokio::time::error::Elapsed;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Every statement finds its rows by a key. A planner that meets young tables, of which it knows nothing yet, thinks that reading them
/// whole costs less, and keeps that plan while they grow, until someone analyses them.
const BY_KEYS: &str = "SET enable_seqscan TO off; SET enable_hashjoin TO off; SET enable_mergejoin TO off; SET jit TO off";

/// What was committed while a batch waited for a row must be seen by what it reads next, whatever the database has as its default.
const EACH_STATEMENT_SEES_ALL: &str = "SET default_transaction_isolation TO 'read committed'";

const ASKED_WHEN_IDLE: Duration = Duration::from_secs(5);
const ALIVE_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Each batch under way takes one.
    pub max_connections: u32,
    /// How long a call waits for a connection.
    pub acquire: Duration,
    /// How long a call may take once it has one.
    pub deadline: Duration,
}

impl Default for PostgresOptions {
    fn default() -> PostgresOptions {
        PostgresOptions { max_connections: 8, acquire: Duration::from_secs(5), deadline: Duration::from_secs(30) }
    }
}

pub struct PostgresStore {
    pool: PgPool,
    schema: String,
    deadline: Duration,
    /// Whose claims are whose: this process, this run.
    owner: String,
    care: Care,
}

impl PostgresStore {
    /// Connects when it is first used.
    pub async fn connect(url: &str, schema: &str, options: PostgresOptions) -> Result<PostgresStore, StoreError> {
        // The schema's tables only: a table of the same name elsewhere is never touched.
        let (tables, deadline) = (quoted(schema), options.deadline.as_millis());
        let session = format!("SET search_path TO {tables}; SET statement_timeout TO {deadline}; {EACH_STATEMENT_SEES_ALL}; {BY_KEYS}");
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections.max(1))
            .acquire_timeout(options.acquire)
            .idle_timeout(Duration::from_secs(300))
            .max_lifetime(Duration::from_secs(1800))
            .test_before_acquire(false)
            .before_acquire(|connection, about| Box::pin(must_live(connection, about.idle_for)))
            .after_connect(move |connection, _| {
                let session = session.clone();
                Box::pin(async move { sqlx::raw_sql(sqlx::AssertSqlSafe(session)).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(parse(url)?);
        let owner = uuid::Uuid::new_v4().to_string();
        Ok(PostgresStore { pool, schema: schema.into(), deadline: options.deadline, owner, care: Care::default() })
    }

    /// New connections use this address: for a password that was rotated.
    pub fn set_url(&self, url: &str) -> Result<(), StoreError> {
        self.pool.set_connect_options(parse(url)?);
        Ok(())
    }

    /// Waits until all connections are given back, and ends them.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn acquire(&self) -> Result<Lent, StoreError> {
        self.pool.acquire().await.map(|connection| Lent { connection, answered: false }).map_err(|e| failed("connecting to PostgreSQL", e))
    }

    fn settle<T>(&self, mut connection: Lent, outcome: Result<Result<T, StoreError>, Elapsed>) -> Result<T, StoreError> {
        connection.answered = outcome.is_ok();
        outcome.unwrap_or_else(|_| Err(StoreError::Transient(format!("PostgreSQL has not answered within {:?}", self.deadline))))
    }

    async fn migrate_on(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        // Schema and tables under one lock of the database, so that any number of processes may start at once.
        Migrate::lock(connection).await.map_err(migration)?;
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
            .bind(&self.schema)
            .fetch_one(&mut *connection)
            .await
            .map_err(|e| failed("looking for the schema", e))?;
        if !there {
            // not IF NOT EXISTS alone: that wants the right to create schemas even where an administrator has made it
            Migrate::create_schema_if_not_exists(connection, &quoted(&self.schema)).await.map_err(migration)?;
        }
        // A newer version may have gone further: an older pod goes on beside it.
        let migrator = Migrator { migrations: MIGRATIONS.migrations.clone(), ignore_missing: true, locking: false, ..Migrator::DEFAULT };
        migrator.run_direct(None, &mut *connection, false).await.map_err(migration)?;
        Migrate::unlock(connection).await.map_err(migration)
    }
}

/// A connection of the pool. One that is given back before its answer came, because the call took too long or whoever made it has
/// gone, is closed: nobody knows what it will still say, and the pool would wait for it.
struct Lent {
    connection: PoolConnection<Postgres>,
    answered: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// A connection that was used a moment ago is still there; whether an older one is, is worth a question, and not a long one.
async fn must_live(connection: &mut PgConnection, idle: Duration) -> Result<bool, sqlx::Error> {
    if idle >= ASKED_WHEN_IDLE {
        let late = |_| sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut));
        tokio::time::timeout(ALIVE_WITHIN, connection.ping()).await.map_err(late)??;
    }
    Ok(true)
}

fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    // The address may hold a password: it is not repeated.
    PgConnectOptions::from_str(url).map(ConnectOptions::disable_statement_logging).map_err(|e| {
        StoreError::Refused(format!("the address of PostgreSQL must look like postgres://user:password@host:5432/database: {e}"))
    })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn migration(error: sqlx::migrate::MigrateError) -> StoreError {
    StoreError::Transient(format!("making the tables: {error}"))
}

/// One transaction.
async fn apply(connection: &mut PgConnection, batch: &[Change], care: &Care) -> Result<Vec<Applied>, StoreError> {
    let checked: Vec<Result<Checked, String>> = batch.iter().map(check).collect();
    let begun = |e| failed("beginning a transaction", e);
    let mut transaction = connection.begin().await.map_err(begun)?;
    let (missing, existing) = lock::lock(&mut transaction, &checked, care).await?;
    let (known, early) = read::read(&mut transaction, &checked, &missing, existing).await?;
    let early: Vec<Checked> = early.iter().map(check).filter_map(Result::ok).collect();
    let mut plan = plan(&checked, known, &early);
    write::write(&mut transaction, &missing, &plan).await?;
    write::notes(&mut transaction, batch, &mut plan).await?;
    transaction.commit().await.map_err(|e| failed("committing", e))?;
    Ok(plan.outcomes)
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, self.migrate_on(&mut connection)).await;
        if !matches!(outcome, Ok(Ok(()))) {
            // with the session goes its lock
            connection.connection.close_on_drop();
        }
        self.settle(connection, outcome)
    }

    async fn apply(&self, batch: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, apply(&mut connection, batch, &self.care)).await;
        self.settle(connection, outcome)
    }

    async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, orders::order(&mut connection, id)).await;
        self.settle(connection, outcome)
    }

    async fn recent(&self, query: &Query) -> Result<Page, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, orders::recent(&mut connection, query)).await;
        self.settle(connection, outcome)
    }

    async fn claim(&self, request: &str, body_hash: [u8; 32], lease: Duration) -> Result<Claim, StoreError> {
        let mut connection = self.acquire().await?;
        let work = claims::claim(&mut connection, &self.owner, request, body_hash, lease);
        let outcome = tokio::time::timeout(self.deadline, work).await;
        self.settle(connection, outcome)
    }

    async fn settle_claim(&self, request: &str, answer: &str) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, claims::settle(&mut connection, request, answer)).await;
        self.settle(connection, outcome)
    }

    async fn release_claim(&self, request: &str) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, claims::release(&mut connection, &self.owner, request)).await;
        self.settle(connection, outcome)
    }

    async fn leave_claim(&self, request: &str) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, claims::leave(&mut connection, &self.owner, request)).await;
        self.settle(connection, outcome)
    }

    async fn takes_changes(&self) -> Result<(), StoreError> {
        self.ready().await?;
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, lock::tables_are_free(&mut connection)).await;
        self.settle(connection, outcome)
    }

    async fn ready(&self) -> Result<(), StoreError> {
        const SOON: Duration = Duration::from_secs(2);
        let mut connection = match tokio::time::timeout(SOON, self.acquire()).await {
            Ok(acquired) => acquired?,
            Err(_) => return Err(StoreError::Away(format!("PostgreSQL cannot be reached within {SOON:?}"))),
        };
        let asked = async { connection.ping().await.map_err(|e| failed("asking PostgreSQL", e)) };
        let outcome = tokio::time::timeout(SOON, asked).await;
        self.settle(connection, outcome)
    }

    async fn tidy(&self, keep: Duration) -> Result<bool, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, tidy::tidy(&mut connection, keep)).await;
        self.settle(connection, outcome)
    }

    async fn expired(&self, keep: Duration) -> Result<Vec<Expired>, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, tidy::expired(&mut connection, keep)).await;
        self.settle(connection, outcome)
    }

    async fn forget(&self, event_ids: &[String]) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, tidy::forget(&mut connection, event_ids)).await;
        self.settle(connection, outcome)
    }
}

#[async_trait]
impl FailedMessages for PostgresStore {
    async fn keep(&self, letters: &[Letter]) -> Result<u64, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::keep(&mut connection, letters)).await;
        self.settle(connection, outcome)
    }

    async fn list(&self, filter: &Filter, below: Option<i64>, limit: u32) -> Result<FailedPage, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::list(&mut connection, filter, below, limit)).await;
        self.settle(connection, outcome)
    }

    async fn show(&self, id: &str) -> Result<Option<(Failed, Content)>, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::show(&mut connection, id)).await;
        self.settle(connection, outcome)
    }

    async fn first_above(&self, filter: &Filter, above: i64) -> Result<Option<(Failed, Content)>, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::first_above(&mut connection, filter, above)).await;
        self.settle(connection, outcome)
    }

    async fn note_replay(&self, id: &str, by: &str) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::note_replay(&mut connection, id, by)).await;
        self.settle(connection, outcome)
    }

    async fn alerts(&self, most: u32) -> Result<Vec<(Failed, u32)>, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::alerts(&mut connection, most)).await;
        self.settle(connection, outcome)
    }

    async fn note_alert(&self, id: &str) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::note_alert(&mut connection, id)).await;
        self.settle(connection, outcome)
    }

    async fn note_alert_failure(&self, id: &str, reason: &str, tried: bool, again: Option<Duration>) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::note_alert_failure(&mut connection, id, reason, tried, again)).await;
        self.settle(connection, outcome)
    }

    async fn forget_letters(&self, keep: Duration, replayed: Duration, most: i64) -> Result<u64, StoreError> {
        let mut connection = self.acquire().await?;
        let outcome = tokio::time::timeout(self.deadline, letters::forget(&mut connection, keep, replayed, most)).await;
        self.settle(connection, outcome)
    }
}
