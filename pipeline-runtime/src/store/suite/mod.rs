//! What every store must do, whichever database it is on. The library's tests run it on SQLite, the tests with services on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that fails says so by ending

mod cases;
mod claims;
mod crowd;
mod letters;
mod make;
mod model;
mod walk;

use super::Store;
use std::sync::Arc;

/// Runs everything; ends with the first mistake. The store's tables exist; what else is in them does not matter.
pub async fn run(store: Arc<dyn Store>) {
    cases::effects(&*store).await;
    cases::dates_and_lists(&*store).await;
    cases::early_updates(&*store).await;
    cases::conflicts(&*store).await;
    cases::what_a_database_cannot_hold(&*store).await;
    cases::reading(&*store).await;
    cases::pages(&*store).await;
    cases::dead_letters(&*store).await;
    claims::claims(store.clone()).await;
    for seed in 0..30 {
        walk::random_batches_do_what_the_model_does(&*store, seed).await;
    }
    crowd::many_workers_at_once(std::array::from_fn(|_| store.clone())).await;
}

pub use crowd::many_workers_at_once;
pub use letters::{letters, the_note_of_an_event_stays_with_its_dead_letter};
pub use make::{Make, created, unique, updated};
