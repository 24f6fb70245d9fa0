//! Where orders are kept: one trait, two databases that behave the same, held to that by one test suite.
//!
//! An effect and the note that it happened are one transaction: that is what "takes effect once" rests on.
//! What a batch does is decided in `plan`, without a database; `sqlite` and `postgres` only read what a plan depends on
//! and write what it says. `check` finds what a database would refuse before it is sent, so that one bad change does not fail its batch.

mod check;
mod failure;
mod letters;
mod plan;
pub mod postgres;
pub mod sqlite;
pub mod suite;

pub use check::unstorable;
pub use letters::{Content, Facts, Failed, FailedMessages, FailedPage, Filter, Letter, MOST_KEPT};
pub use postgres::{PostgresOptions, PostgresStore};
pub use sqlite::SqliteStore;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, value::RawValue};
use std::sync::Arc;
use std::time::Duration;

/// What one event does to one order. As JSON it waits for its Create.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What makes a repeat a repeat, for everything but Create (there the order's id does).
    pub event_id: String,
    /// The event's name in the document.
    pub event: String,
    pub effect: crds::pipeline::Effect,
    pub order_id: String,
    /// Of a Create: SHA-256 of its data. The same order id with another one is a conflict.
    pub content: [u8; 32],
    pub fields: Fields,
    /// Set by this event, unless a newer event has set it already. `status` and the other columns are in `fields`.
    pub set: Map<String, Json>,
    pub append: Map<String, Json>,
    /// When it happened, where the document says so: an older event does not overwrite what a newer one has set.
    /// None: the order of arrival decides.
    pub at: Option<DateTime<Utc>>,
    /// When it was published.
    pub published_at: DateTime<Utc>,
    /// Where it came from, for people: topic/partition/offset.
    pub source: String,
}

/// The order's own columns, as far as the event has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fields {
    pub tenant: Option<String>,
    pub customer: Option<String>,
    /// JSON text, as it came.
    pub items: Option<String>,
    /// The amount's decimal text, as it came. Kept as DECIMAL(10,2) (FP-4): one that would have to be rounded or does not fit is refused.
    pub total: Option<String>,
    pub status: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It took effect now.
    Done,
    /// It had taken effect before.
    Repeat,
    /// An update whose order is not there yet: kept, and applied with the Create.
    Waiting,
    /// It contradicts what is stored and never can take effect: a dead letter. The sentence says why.
    Conflict(String),
    /// No store could hold it, whatever is stored: a dead letter too.
    Refused(String),
}

/// An update that waited for its Create, and in vain.
#[derive(Clone, Debug, PartialEq)]
pub struct Expired {
    pub change: Change,
    /// The Create came and the update contradicts it; None: it did not come.
    pub refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    pub order_id: String,
    pub tenant_id: Option<String>,
    pub customer_id: Option<String>,
    /// JSON text.
    pub items: Option<RawJson>,
    /// Decimal text, serialised as a JSON number.
    pub total_amount: Option<Amount>,
    pub status: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// What `set` and `append` have put there.
    #[serde(flatten)]
    pub fields: Map<String, Json>,
}

/// A decimal amount kept as text, so that it never passes through a float; written to JSON as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amount(pub String);
impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        raw(&self.0, serializer)
    }
}

/// JSON text that is passed on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawJson(pub String);
impl Serialize for RawJson {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        raw(&self.0, serializer)
    }
}

fn raw<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => raw.serialize(serializer),
        Err(_) => serializer.serialize_str(text),
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Worth another try: deadlock, serialisation, no answer in time.
    #[error("the store cannot be used now: {0}")]
    Transient(String),
    /// Likewise, and whatever was asked is not to blame: connection lost or refused, too many connections, disk full.
    #[error("the store is away: {0}")]
    Away(String),
    /// The same change will fail again: a value out of range, text that the database cannot hold.
    #[error("the store refuses: {0}")]
    Refused(String),
}

/// A claim on a request id (`idempotency: Strict`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours: publish, then `settle_claim`.
    Ours,
    /// Somebody is publishing it now. Ask again.
    Pending,
    /// Answered before: the stored answer.
    Answered { body_hash: [u8; 32], answer: String },
    /// Taken by a request with another body.
    OtherBody,
}

/// What of the orders is asked for: one page of them.
#[derive(Clone, Debug)]
pub struct Query {
    pub limit: u32,
    /// The most that the page's orders may hold together, in bytes of JSON text; one order always comes.
    pub max_bytes: u32,
    pub tenant: Option<String>,
    /// Only what stands behind this order.
    pub after: Option<Mark>,
}

/// The place of an order among the others: the newest first, of one time the greatest id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub created_at: DateTime<Utc>,
    pub order_id: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub orders: Vec<Order>,
    /// Whether orders stand behind the last of these.
    pub more: bool,
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates or upgrades the tables. Safe to run from many processes at once.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Applies a batch in one transaction, in the given order for changes of one order, and says for each what became of it.
    /// All or nothing: on `Err` nothing of the batch is applied. May be called concurrently; rows are locked in the order of their ids.
    async fn apply(&self, batch: &[Change]) -> Result<Vec<Applied>, StoreError>;

    async fn order(&self, id: &str) -> Result<Option<Order>, StoreError>;

    /// The newest first. What the page has no room for never leaves the database.
    async fn recent(&self, query: &Query) -> Result<Page, StoreError>;

    /// Claims a request id before anything is published. A claim that is neither settled nor released within `lease` is taken over.
    async fn claim(&self, request: &str, body_hash: [u8; 32], lease: Duration) -> Result<Claim, StoreError>;
    async fn settle_claim(&self, request: &str, answer: &str) -> Result<(), StoreError>;
    /// Nothing was published: anybody may claim it, with any body. (Not if it was taken over: the first one may have published.)
    async fn release_claim(&self, request: &str) -> Result<(), StoreError>;
    /// Something may have been published: whoever comes with the same body may take it over at once, no other body ever.
    async fn leave_claim(&self, request: &str) -> Result<(), StoreError>;

    /// Whether the database answers now.
    async fn ready(&self) -> Result<(), StoreError>;

    /// Whether [`Store::apply`] could write now. A table that is locked (an index is made, a vacuum is full) answers, and takes nothing.
    async fn takes_changes(&self) -> Result<(), StoreError> {
        self.ready().await
    }

    /// Forgets what is older, in small steps: claims, and notes of applied events, but not of one that has a dead letter, which may be
    /// replayed. Says whether there is more of it.
    async fn tidy(&self, keep: Duration) -> Result<bool, StoreError>;

    /// Updates that became dead letters: those that waited past `keep` for their Create, and those that contradict it; no more than
    /// [`EXPIRED_AT_ONCE`]. From then on they never take effect. They stay, and are returned again after [`HANDED_OUT`], until `forget` is
    /// told that the dead letter is written.
    async fn expired(&self, keep: Duration) -> Result<Vec<Expired>, StoreError>;

    /// The dead letters of these events, returned by `expired`, are written.
    async fn forget(&self, event_ids: &[String]) -> Result<(), StoreError>;
}

/// What a process keeps things in.
#[derive(Clone)]
pub struct Stores {
    pub orders: Arc<dyn Store>,
    /// None: the store is in memory and bounded, and what else it holds would be gone with the pod.
    pub letters: Option<Arc<dyn FailedMessages>>,
}

/// How long who called `expired` has for writing the dead letters, before they are returned to the next caller.
pub const HANDED_OUT: Duration = Duration::from_secs(900);
pub const EXPIRED_AT_ONCE: usize = 100;
/// The most rows that one step of `tidy` deletes, and the most steps: what they take is far below the deadline of a call.
const TIDY_STEP: i64 = 5000;
const TIDY_STEPS: usize = 4;

/// A change as it was kept. One that cannot be read stays where it is, and is logged again and again until somebody looks.
fn readable(text: &str) -> Option<Change> {
    serde_json::from_str(text).map_err(|reason| tracing::error!(%reason, change = text, "an event that waited cannot be read")).ok()
}

/// Whose a claim is that was taken over: the one before may have published.
fn second(owner: &str) -> String {
    format!("{owner}, second")
}

fn handed_out((text, refused): (String, Option<String>)) -> Option<Expired> {
    Some(Expired { change: readable(&text)?, refused })
}
