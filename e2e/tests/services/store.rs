//! The runtime's store on a real PostgreSQL.

use e2e::bed::Postgres;
use pipeline_runtime::store::suite::{self, Make, created, unique, updated};
use pipeline_runtime::store::{Applied, Change, PostgresOptions, PostgresStore, Store, StoreError};
use sqlx::postgres::PgPool;
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn store(postgres: &Postgres, schema: &str) -> Arc<PostgresStore> {
    let store = PostgresStore::connect(&postgres.url(), schema, PostgresOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    Arc::new(store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres_does_what_every_store_must() {
    let postgres = Postgres::start().await.unwrap();
    // a name that must be quoted, as a pipeline's name may be
    let store = store(&postgres, "retail-2").await;
    suite::run(store.clone()).await;
    suite::letters(&*store).await;
    for _ in 0..5 {
        // Each as it begins: it expects no repeats yet.
        let mut crowd: Vec<Arc<dyn Store>> = Vec::new();
        for _ in 0..6 {
            crowd.push(self::store(&postgres, "retail-2").await);
        }
        suite::many_workers_at_once(crowd.try_into().ok().unwrap()).await;
    }
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    // each event of an order is noted in the order in which it took effect
    let disagreeing: i64 = sqlx::query_scalar(
        r#"SELECT count(*) FROM (
             SELECT o.order_id, o.fields->'events' AS told,
                    (SELECT jsonb_agg(right(e.event_id, 1)::int ORDER BY e.seq) FROM "retail-2".effects e
                     WHERE e.order_id = o.order_id AND e.event = 'OrderUpdated' AND e.event_id !~ 'seen$') AS noted
             FROM "retail-2".orders o WHERE o.order_id LIKE 'crowd%') x WHERE told IS DISTINCT FROM noted"#,
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(disagreeing, 0);
    let placeholders: i64 =
        sqlx::query_scalar(r#"SELECT count(*) FROM "retail-2".orders WHERE event_id = ''"#).fetch_one(&pool).await.unwrap();
    assert_eq!(placeholders, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_number_of_processes_may_make_the_tables_at_once() {
    let postgres = Postgres::start().await.unwrap();
    let starts = (0..8).map(|n| {
        let url = postgres.url();
        tokio::spawn(async move {
            let schema = if n % 2 == 0 { "one" } else { "two" };
            let store = PostgresStore::connect(&url, schema, PostgresOptions::default()).await.unwrap();
            store.migrate().await.unwrap();
            store.apply(&[created("same in both")]).await.unwrap().remove(0)
        })
    });
    let mut done = 0;
    for start in starts.collect::<Vec<_>>() {
        done += usize::from(start.await.unwrap() == Applied::Done);
    }
    assert_eq!(done, 2, "two schemas, one order in each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_went_away_is_said_to_be_away_and_heals() {
    let postgres = Postgres::start().await.unwrap();
    let options = PostgresOptions { acquire: Duration::from_millis(500), ..PostgresOptions::default() };
    let store = PostgresStore::connect(&postgres.url(), "shop", options).await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.apply(&[created("a")]).await.unwrap(), [Applied::Done]);
    postgres.kill();
    for outcome in [store.ready().await.err(), store.apply(&[created("b")]).await.err()] {
        assert!(matches!(outcome, Some(StoreError::Away(_))), "{outcome:?}");
    }
    postgres.restart().await.unwrap();
    e2e::bed::eventually("the store heals", Duration::from_secs(30), || async { Ok(store.ready().await?) }).await.unwrap();
    assert_eq!(store.apply(&[created("a"), created("b")]).await.unwrap(), [Applied::Repeat, Applied::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_that_somebody_holds_ends_the_call_in_time_and_nothing_is_applied() {
    let postgres = Postgres::start().await.unwrap();
    let options = PostgresOptions { deadline: Duration::from_millis(300), ..PostgresOptions::default() };
    let store = PostgresStore::connect(&postgres.url(), "shop", options).await.unwrap();
    store.migrate().await.unwrap();
    store.apply(&[created("held")]).await.unwrap();
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM shop.orders FOR UPDATE").execute(&mut *holder).await.unwrap();
    let batch = [created("beside"), updated("held", "e").status("ON")];
    let outcome = store.apply(&batch).await;
    assert!(matches!(outcome, Err(StoreError::Transient(_))), "{outcome:?}");
    holder.rollback().await.unwrap();
    e2e::bed::eventually("the lock is free", Duration::from_secs(10), || async {
        assert_eq!(store.apply(&batch).await?, [Applied::Done, Applied::Done]);
        Ok(())
    })
    .await
    .unwrap();
}

/// Each batch holds its own order: only the key of the notes keeps the two apart. Whether an event without an effect is beside it makes
/// no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_that_takes_effect_for_another_order_meanwhile_fails_its_batch_and_is_a_conflict_to_the_next_try() {
    let postgres = Postgres::start().await.unwrap();
    let store = store(&postgres, "shop").await;
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    for with in [vec![], vec![updated("nobody", "seen").effect(crds::pipeline::Effect::None)]] {
        let (order, event) = (unique("ours"), unique("event"));
        store.apply(&[created(&order)]).await.unwrap();
        let batch = [vec![updated(&order, &event).status("TWICE")], with].concat();
        // Somebody who has noted the event and not committed it when the batch looks for it.
        let mut other = pool.begin().await.unwrap();
        let note = "INSERT INTO shop.applied_events (event_id, seq, order_id, event, source) VALUES ($1, 0, 'theirs', '', '')";
        sqlx::query(note).bind(&event).execute(&mut *other).await.unwrap();
        let applying = tokio::spawn({
            let (store, batch) = (store.clone(), batch.clone());
            async move { store.apply(&batch).await }
        });
        one_waits_for_a_lock(&pool).await;
        other.commit().await.unwrap();
        let outcome = applying.await.unwrap();
        assert!(matches!(outcome, Err(StoreError::Transient(_))), "{outcome:?}");
        let again = store.apply(&batch).await.unwrap();
        assert!(matches!(&again[0], Applied::Conflict(why) if why.contains("one order")), "{again:?}");
        assert!(again[1..].iter().all(|outcome| *outcome == Applied::Done), "what failed has left no note: {again:?}");
        assert_eq!(store.order(&order).await.unwrap().unwrap().status.as_deref(), Some("NEW"));
    }
}

/// Else two batches could wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_that_waits_for_an_order_which_is_being_made_holds_no_other_order() {
    let postgres = Postgres::start().await.unwrap();
    let store = store(&postgres, "shop").await;
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    store.apply(&[created("a")]).await.unwrap();
    let mut maker = pool.begin().await.unwrap();
    let made = "INSERT INTO shop.orders (order_id, created_at, event_id, event, source) VALUES ('b', now(), 'made', '', '')";
    sqlx::query(made).execute(&mut *maker).await.unwrap();
    let applying = tokio::spawn({
        let store = store.clone();
        async move { store.apply(&[updated("a", "e").status("ON"), updated("b", "f").status("ON")]).await }
    });
    one_waits_for_a_lock(&pool).await;
    sqlx::query("SELECT FROM shop.orders WHERE order_id = 'a' FOR UPDATE NOWAIT").execute(&mut *maker).await.unwrap();
    maker.commit().await.unwrap();
    assert_eq!(applying.await.unwrap().unwrap(), [Applied::Done, Applied::Done]);
}

async fn one_waits_for_a_lock(pool: &PgPool) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    e2e::bed::eventually("one waits for a lock", Duration::from_secs(10), || async {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(pool).await?;
        anyhow::ensure!(waiting == 1, "{waiting} wait");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn old_notes_go_and_what_they_noted_stays() {
    let postgres = Postgres::start().await.unwrap();
    let store = store(&postgres, "shop").await;
    let batch: Vec<Change> = (0..32_000).map(|n| updated("a", &format!("e{n}")).effect(crds::pipeline::Effect::None)).collect();
    for part in batch.chunks(1000) {
        store.apply(part).await.unwrap();
    }
    store.claim("r", [0; 32], Duration::ZERO).await.unwrap();
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let left = || async {
        sqlx::query_scalar::<_, i64>("SELECT (SELECT count(*) FROM shop.applied_events) + (SELECT count(*) FROM shop.request_claims)")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    assert!(!store.tidy(Duration::from_secs(3600)).await.unwrap());
    assert_eq!(left().await, 32_001);
    assert!(store.tidy(Duration::ZERO).await.unwrap(), "one call has an end, and there is more");
    assert!((1..32_000).contains(&left().await));
    assert!(!store.tidy(Duration::ZERO).await.unwrap());
    assert_eq!(left().await, 0);
    suite::the_note_of_an_event_stays_with_its_dead_letter(&*store).await;
}

/// Young tables are what a planner knows nothing of: left alone it reads them whole for every batch, and goes on so while they grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_batch_reads_a_whole_table_not_even_in_a_new_schema() {
    const ORDERS: usize = 2000;
    let postgres = Postgres::start().await.unwrap();
    let store = store(&postgres, "young").await;
    for n in (0..ORDERS).step_by(2) {
        let (this, next, late) = (format!("o{n}"), format!("o{}", n + 1), format!("l{n}"));
        let first = [created(&this), created(&next), updated(&late, &format!("{late}-e")).status("ON")];
        assert_eq!(store.apply(&first).await.unwrap(), [Applied::Done, Applied::Done, Applied::Waiting]);
        let second = [updated(&this, &format!("{this}-e")).status("ON"), created(&late)];
        assert_eq!(store.apply(&second).await.unwrap(), [Applied::Done, Applied::Done]);
    }
    // What a session has counted is told when it has ended, which may be a moment after it was left.
    store.close().await;
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let read = || async {
        let read: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT relname::text, seq_tup_read, idx_scan FROM pg_stat_user_tables \
             WHERE relname IN ('orders', 'applied_events', 'early_events') AND idx_scan >= $1 ORDER BY relname",
        )
        .bind(ORDERS as i64 / 2)
        .fetch_all(&pool)
        .await?;
        anyhow::ensure!(read.len() == 3, "only of {read:?} it is told how they were used");
        Ok(read)
    };
    for (table, rows, _) in e2e::bed::eventually("it is told how the tables were used", Duration::from_secs(10), read).await.unwrap() {
        assert!(rows < ORDERS as i64, "{rows} rows of {table} were read to find those of {ORDERS} small batches");
    }
}

/// Not a test of a number: prints what this machine does, and fails only if rows are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn how_fast_batches_of_500_are() {
    const ROWS: usize = 40_000;
    let postgres = Postgres::start().await.unwrap();
    let store = store(&postgres, "speed").await;
    for callers in [1, 2] {
        let prefix = unique("speed");
        let create = |n: usize| created(&format!("{prefix}-{n}"));
        let update = |n: usize| updated(&format!("{prefix}-{n}"), &format!("{prefix}-e{n}")).status("PAID");
        let set = |n: usize| updated(&format!("{prefix}-{n}"), &format!("{prefix}-s{n}")).at(n as i64).set("step", n).append("log", n);
        print("Create", callers, &store, (0..ROWS).map(create).collect(), Applied::Done).await;
        print("Create again", callers, &store, (0..ROWS).map(create).collect(), Applied::Repeat).await;
        print("Update status", callers, &store, (0..ROWS).map(update).collect(), Applied::Done).await;
        print("Update set+append", callers, &store, (0..ROWS).map(set).collect(), Applied::Done).await;
        let early = |n: usize| updated(&format!("{prefix}-l{n}"), &format!("{prefix}-l{n}")).status("PAID");
        let late = |n: usize| created(&format!("{prefix}-l{n}"));
        print("Update early", callers, &store, (0..ROWS / 4).map(early).collect(), Applied::Waiting).await;
        print("Create late", callers, &store, (0..ROWS / 4).map(late).collect(), Applied::Done).await;
    }
}

async fn print(what: &str, callers: usize, store: &Arc<PostgresStore>, changes: Vec<Change>, expected: Applied) {
    let count = changes.len();
    let parts: Vec<Vec<Change>> = changes.chunks(count / callers).map(<[Change]>::to_vec).collect();
    let began = Instant::now();
    let work: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let (store, expected) = (store.clone(), expected.clone());
            tokio::spawn(async move {
                for batch in part.chunks(500) {
                    assert!(store.apply(batch).await.unwrap().iter().all(|applied| *applied == expected));
                }
            })
        })
        .collect();
    for part in work {
        part.await.unwrap();
    }
    println!("{what}, {callers} callers: {:.0} rows/s", count as f64 / began.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_table_that_somebody_has_locked_is_told_from_a_store_that_works_and_a_call_that_is_given_up_leaves_its_connection_to_nobody() {
    let postgres = Postgres::start().await.unwrap();
    let options = PostgresOptions { max_connections: 1, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&postgres.url(), "shop", options).await.unwrap();
    store.migrate().await.unwrap();
    store.takes_changes().await.unwrap();
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let mut holder = pool.begin().await.unwrap();
    // As CREATE INDEX does.
    sqlx::query("LOCK TABLE shop.orders IN SHARE MODE").execute(&mut *holder).await.unwrap();
    let batch = [created("beside")];
    assert!(tokio::time::timeout(Duration::from_millis(300), store.apply(&batch)).await.is_err(), "it waits for the lock");
    let begun = Instant::now();
    store.ready().await.unwrap();
    assert_eq!(store.order("nobody").await.unwrap(), None);
    assert!(begun.elapsed() < Duration::from_secs(10), "the only connection was free after {:?}", begun.elapsed());
    let asked = store.takes_changes().await;
    assert!(matches!(&asked, Err(StoreError::Transient(why)) if why.contains("tables of orders")), "{asked:?}");
    holder.rollback().await.unwrap();
    store.takes_changes().await.unwrap();
    assert_eq!(store.apply(&batch).await.unwrap(), [Applied::Done]);
}

/// FP-4: the table of orders by the very names and types, with further columns beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_table_of_orders_is_as_it_was_ordered() {
    let postgres = Postgres::start().await.unwrap();
    store(&postgres, "food").await;
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT column_name::text, concat_ws(' ', data_type, numeric_precision, numeric_scale, nullif(is_nullable, 'YES')) \
         FROM information_schema.columns WHERE table_schema = 'food' AND table_name = 'orders' ORDER BY ordinal_position",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let ordered = [
        ("order_id", "text NO"),
        ("customer_id", "text"),
        ("items", "jsonb"),
        ("total_amount", "numeric 10 2"),
        ("status", "text"),
        ("created_at", "timestamp with time zone NO"),
        ("processed_at", "timestamp with time zone NO"),
    ];
    for (name, kind) in ordered {
        let found = columns.iter().find(|(column, _)| column == name);
        assert_eq!(found.map(|(_, kind)| kind.as_str()), Some(kind), "{name}");
    }
    let key: Vec<String> = sqlx::query_scalar(
        "SELECT k.column_name::text FROM information_schema.table_constraints c \
         JOIN information_schema.key_column_usage k USING (constraint_schema, constraint_name, table_name) \
         WHERE c.table_schema = 'food' AND c.table_name = 'orders' AND c.constraint_type = 'PRIMARY KEY'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(key, ["order_id"]);
    let indexes: Vec<String> =
        sqlx::query_scalar("SELECT indexdef FROM pg_indexes WHERE schemaname = 'food' AND tablename = 'orders' ORDER BY indexname")
            .fetch_all(&pool)
            .await
            .unwrap();
    for column in ["created_at", "customer_id"] {
        assert!(indexes.iter().any(|index| index.ends_with(&format!("ON food.orders USING btree ({column})"))), "{column}: {indexes:?}");
    }
}
