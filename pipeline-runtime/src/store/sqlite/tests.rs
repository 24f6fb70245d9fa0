#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::suite::{self, Make, created, updated};
use super::super::{Applied, Change, EXPIRED_AT_ONCE, Query, Store};
use super::SqliteStore;
use crate::sqlite::Place;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

async fn memory(max_orders: Option<u32>) -> SqliteStore {
    let store = SqliteStore::open(&Place::Memory, max_orders).await.unwrap();
    store.migrate().await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_memory_does_what_every_store_must() {
    let store = Arc::new(memory(None).await);
    suite::run(store.clone()).await;
    suite::letters(&*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_a_file_does_what_every_store_must_and_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::File(directory.path().join("orders.db"));
    let store = Arc::new(SqliteStore::open(&place, None).await.unwrap());
    store.migrate().await.unwrap();
    suite::run(store.clone()).await;
    suite::letters(&*store).await;
    assert_eq!(store.apply(&[created("kept"), updated("later", "waits")]).await.unwrap(), [Applied::Done, Applied::Waiting]);
    store.close().await;
    drop(store);
    let store = SqliteStore::open(&place, None).await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.apply(&[created("kept"), updated("later", "waits")]).await.unwrap(), [Applied::Repeat, Applied::Waiting]);
}

#[tokio::test]
async fn a_bounded_store_forgets_the_oldest_orders_and_notes() {
    let store = memory(Some(3)).await;
    for n in 0..10 {
        let id = format!("o{n}");
        let mut batch = vec![created(&id)];
        batch.extend((0..10).map(|m| updated(&id, &format!("{n}-{m}")).status("ON")));
        batch.push(updated("nobody", &format!("early {n}")));
        store.apply(&batch).await.unwrap();
    }
    let kept = store.recent(&Query { limit: 50, max_bytes: u32::MAX, tenant: None, after: None }).await.unwrap().orders;
    assert_eq!(kept.iter().map(|o| o.order_id.as_str()).collect::<Vec<_>>(), ["o9", "o8", "o7"]);
    let count = async |table: &'static str| sqlx::query_scalar::<_, i64>(table).fetch_one(&store.database.readers).await.unwrap();
    assert_eq!(count("SELECT count(*) FROM applied_events").await, 12);
    assert_eq!(count("SELECT count(*) FROM early_events").await, 3);
    // also one batch that is larger than the store
    store.apply(&(0..20).map(|n| created(&format!("p{n}"))).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(count("SELECT count(*) FROM orders").await, 3);
}

#[tokio::test]
async fn the_default_store_in_memory_leaves_room_in_the_default_pod() {
    const ROOM: i64 = 40 << 20; // of the 128 MiB that a pod may have
    const SHARE: u32 = 10; // a tenth of it says as much
    let max = crds::pipeline::Memory::default().max_orders / SHARE;
    let store = memory(Some(max)).await;
    for _ in 0..max * 2 / 100 {
        let mut batch = Vec::new();
        for _ in 0..100 {
            let id = Uuid::new_v4().to_string();
            batch.push(created(&id));
            batch.extend((0..6).map(|_| updated(&id, &Uuid::new_v4().to_string()).status("PACKED")));
        }
        store.apply(&batch).await.unwrap();
    }
    let size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
    let size: i64 = sqlx::query_scalar(size).fetch_one(&store.database.readers).await.unwrap();
    println!("{} bytes for {max} orders", size);
    assert!(size * i64::from(SHARE) < ROOM, "{size} bytes for {max} orders");
}

#[tokio::test]
async fn tidying_forgets_what_is_old_and_keeps_what_is_not() {
    let store = memory(None).await;
    let batch = [created("a"), updated("a", "e").status("ON")];
    store.apply(&batch).await.unwrap();
    store.claim("r", [0; 32], Duration::ZERO).await.unwrap();
    store.tidy(Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.apply(&batch).await.unwrap(), [Applied::Repeat, Applied::Repeat]);
    assert!(!store.tidy(Duration::ZERO).await.unwrap());
    let left: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM applied_events) + (SELECT count(*) FROM request_claims)")
        .fetch_one(&store.database.readers)
        .await
        .unwrap();
    assert_eq!(left, 0);
    assert_eq!(store.apply(&batch[..1]).await.unwrap(), [Applied::Repeat], "an order is its own note");
    suite::the_note_of_an_event_stays_with_its_dead_letter(&store).await;
}

#[tokio::test]
async fn all_that_waited_too_long_are_handed_out_some_at_a_time() {
    let store = memory(None).await;
    let waiting: Vec<Change> = (0..=EXPIRED_AT_ONCE).map(|n| updated(&format!("o{n}"), &format!("e{n}"))).collect();
    store.apply(&waiting).await.unwrap();
    assert_eq!(store.expired(Duration::ZERO).await.unwrap().len(), EXPIRED_AT_ONCE);
    assert_eq!(store.expired(Duration::ZERO).await.unwrap().len(), 1);
    assert_eq!(store.expired(Duration::ZERO).await.unwrap().len(), 0);
}

#[tokio::test]
async fn the_notes_tell_the_order_in_which_events_took_effect() {
    let store = memory(None).await;
    store.apply(&[updated("a", "early").append("log", "early")]).await.unwrap();
    store.apply(&[created("a"), updated("a", "z").append("log", "z"), updated("a", "b").append("log", "b")]).await.unwrap();
    let effects: Vec<String> = sqlx::query_scalar("SELECT event_id FROM effects WHERE order_id = 'a' ORDER BY seq")
        .fetch_all(&store.database.readers)
        .await
        .unwrap();
    assert_eq!(effects, ["create-a", "early", "z", "b"]);
}
