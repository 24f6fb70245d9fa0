//! What cannot be processed, from its last attempt to its replay: on `examples/retail`, and on a laptop.

use crate::retail::{Others, order};
use crate::up::Laptop;
use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{KEY, Pipeline, READY, dead, header, metric};
use e2e::product::Product;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value as Json, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ADMIN_KEY: &str = "anna-key";

/// An HTTP service that writes down what it is told, and answers as it should.
struct Service {
    url: String,
    calls: Arc<Mutex<Vec<(String, Json)>>>,
}

impl Service {
    async fn start(answer: impl Fn(usize) -> u16 + Clone + Send + Sync + 'static) -> Service {
        let calls = Arc::<Mutex<Vec<(String, Json)>>>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/told", listener.local_addr().unwrap());
        let heard = calls.clone();
        let handler = move |headers: HeaderMap, body: String| {
            let mut calls = heard.lock().unwrap();
            let status = answer(calls.len());
            calls.push((headers["idempotency-key"].to_str().unwrap().to_owned(), serde_json::from_str(&body).unwrap()));
            async move { StatusCode::from_u16(status).unwrap() }
        };
        tokio::spawn(axum::serve(listener, Router::new().route("/told", post(handler))).into_future());
        Service { url, calls }
    }

    fn calls(&self) -> Vec<(String, Json)> {
        self.calls.lock().unwrap().clone()
    }
}

/// `pipeline-runtime dlq`, as an administrator would run it: what it printed, and whether it went well.
async fn dlq(url: &str, key: &str, arguments: &[&str]) -> (String, bool) {
    let mut command = Product::command("pipeline-runtime", &["dlq"]).unwrap();
    command.args(arguments).args(["--url", url]).env("ADMIN_KEY", key);
    let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)), out.status.success())
}

async fn dlq_json(url: &str, arguments: &[&str]) -> Json {
    let (printed, good) = dlq(url, ADMIN_KEY, &[arguments, &["--json"]].concat()).await;
    assert!(good, "{printed}");
    serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{printed}"))
}

type Row = (String, String, i32, String, i32, Option<String>);

async fn failed(pool: &PgPool, count: usize) -> Vec<Row> {
    let rows = || async {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT id, topic, attempts, error_type, replays, data FROM retail.failed_messages ORDER BY seq")
                .fetch_all(pool)
                .await?;
        ensure!(rows.len() >= count, "{} of {count}", rows.len());
        Ok(rows)
    };
    let rows = eventually("the letters are kept", READY, rows).await.unwrap();
    assert_eq!(rows.len(), count, "{rows:#?}");
    rows
}

async fn effects(pool: &PgPool, order: &str) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM retail.effects WHERE order_id = $1").bind(order).fetch_one(pool).await?)
}

async fn pool(pipeline: &Pipeline) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect(&pipeline.postgres.url()).await.unwrap()
}

/// Retail as it lies there, but for shorter waits, and a webhook of the test's own.
async fn retail(kafka: &Kafka, webhook: &Service) -> Pipeline {
    let url = format!("url: {:?}", webhook.url);
    let changes = [("base: 1s", "base: 100ms"), ("urlSecretRef: {name: retail-alerts, key: url}", &*url)];
    let pipeline = Pipeline::example(kafka, "retail", &changes).await.unwrap();
    let folder = pipeline.room.path().join("secrets/retail-admin-keys");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("anna"), ADMIN_KEY).unwrap();
    pipeline
}

/// RF-11, the processing error: five attempts, the dead letter, its row, one alert; then the cause is mended and it is replayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_five_times_is_kept_is_told_of_once_and_replayed_takes_effect_once() {
    let (kafka, webhook) = (Kafka::start(1).await.unwrap(), Service::start(|_| 204).await);
    let pipeline = retail(&kafka, &webhook).await;
    let (_worker, worker) = pipeline.start("worker").await.unwrap();
    let (_api, api) = pipeline.start("api").await.unwrap();
    let (pool, others) = (pool(&pipeline).await, Others::new(&kafka));
    sqlx::raw_sql(
        "CREATE FUNCTION retail.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no shelf for this order'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON retail.orders FOR EACH ROW WHEN (NEW.order_id = 'poison') EXECUTE FUNCTION retail.refuse()",
    )
    .execute(&pool)
    .await
    .unwrap();
    others
        .send_with("order-create", "c-1", "v-1", json!({"eventType": "ORDER_CREATE", "severity": "CRITICAL"}), order("poison", "c-1"))
        .await;
    others.send("order-create", "c-1", "v-2", "ORDER_CREATE", order("next", "c-1")).await;
    others.raw("order-create", "c-2", b"no json").await;

    let rows = failed(&pool, 2).await;
    let poison = rows.iter().find(|row| row.3 == "store").unwrap();
    assert_eq!((&*poison.1, poison.2, poison.4), ("order-create", 5, 0));
    assert!(poison.5.as_ref().unwrap().contains("\"messageId\":\"v-1\""), "whole: {poison:?}");
    eventually("what is behind it is applied", READY, || async {
        ensure!(effects(&pool, "next").await? == 1);
        Ok(())
    })
    .await
    .unwrap();
    let letters = dead(&kafka, "order-create", 2).await;
    let letter = letters.iter().find(|letter| header(letter, "dlq-id") == poison.0).unwrap();
    assert_eq!((header(letter, "dlq-attempts"), header(letter, "dlq-event-id")), ("5".to_owned(), "v-1".to_owned()));
    assert!(header(letter, "dlq-reason").contains("no shelf for this order"));
    assert_eq!(header(letter, "dlq-publish-time"), "2025-01-10T12:00:00.000Z", "as the message says");
    eventually("somebody is told", READY, || async {
        ensure!(!webhook.calls().is_empty());
        Ok(())
    })
    .await
    .unwrap();

    // Whoever looks at it.
    let listed = dlq_json(&api, &["list", "--error-type", "store", "--from", "1h"]).await;
    assert_eq!((listed["count"].as_u64(), listed["deadLetters"][0]["id"].as_str()), (Some(1), Some(&*poison.0)));
    let shown = dlq(&api, ADMIN_KEY, &["show", &poison.0]).await.0;
    assert!(shown.contains("no shelf for this order") && shown.contains("key: c-1") && shown.contains("\"messageId\":\"v-1\""), "{shown}");
    let refused = dlq(&api, KEY, &["list"]).await;
    assert!(!refused.1 && refused.0.contains("401") && refused.0.contains("ADMIN_KEY"), "{refused:?}");
    let nobody = dlq("http://127.0.0.1:1", ADMIN_KEY, &["list"]).await;
    assert!(!nobody.1 && nobody.0.contains("--url") && nobody.0.contains("port-forward"), "{nobody:?}");

    // The cause is still there: another dead letter of the same event, and somebody is told of that one.
    let replayed = dlq_json(&api, &["replay", &poison.0]).await;
    assert_eq!(replayed["replayed"][0]["eventId"], "v-1");
    let again = failed(&pool, 3).await;
    assert_eq!((&again[2].3, again[2].5.as_ref(), again.iter().map(|row| row.4).sum::<i32>()), (&"store".to_owned(), poison.5.as_ref(), 1));

    // It is mended: both letters are replayed, the event takes effect once.
    sqlx::raw_sql("DROP TRIGGER refuse ON retail.orders").execute(&pool).await.unwrap();
    let all = dlq(&api, ADMIN_KEY, &["replay", "--all", "--error-type", "store", "--again"]).await;
    assert!(all.1 && all.0.contains("2 replayed, 0 skipped"), "{all:?}");
    eventually("it takes effect", READY, || async {
        ensure!(effects(&pool, "poison").await? == 1);
        Ok(())
    })
    .await
    .unwrap();
    eventually("the second is a repeat", READY, || async {
        ensure!(metric(&worker, "orders_repeated_total").await? == 1.0);
        Ok(())
    })
    .await
    .unwrap();
    let once_more = dlq(&api, ADMIN_KEY, &["replay", &poison.0]).await;
    assert!(once_more.1, "{once_more:?}");
    eventually("and so is the third", READY, || async {
        ensure!(metric(&worker, "orders_repeated_total").await? == 2.0);
        Ok(())
    })
    .await
    .unwrap();
    let nothing = dlq(&api, ADMIN_KEY, &["replay", "--all", "--error-type", "store"]).await;
    assert!(nothing.1 && nothing.0.contains("0 replayed, 0 skipped"), "{nothing:?}");
    assert_eq!(effects(&pool, "poison").await.unwrap(), 1);

    let told = webhook.calls();
    let ids: Vec<&str> = told.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, [&*poison.0, &*again[2].0], "each letter once, and the one that is not critical never");
    assert_eq!((&told[0].1["topic"], &told[0].1["attempts"], &told[0].1["data"]), (&json!("order-create"), &json!(5), &Json::Null));
    failed(&pool, 3).await;
}

/// Where the group stands as if it had been killed before its commit.
async fn set_back(kafka: &Kafka, group: &str, topic: &str, partitions: i32) {
    let consumer: BaseConsumer = kafka.client().set("group.id", group).create().unwrap();
    let mut all = TopicPartitionList::new();
    (0..partitions).for_each(|partition| all.add_partition_offset(topic, partition, Offset::Offset(0)).unwrap());
    // As long as the killed one is taken to be a member, the broker refuses.
    let committed = || async { consumer.commit(&all, CommitMode::Sync).context("setting the group back") };
    eventually("the group is free", Duration::from_secs(60), committed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_dead_letter_and_its_commit_the_letter_is_there_twice_and_kept_and_told_of_once() {
    let (kafka, webhook) = (Kafka::start(1).await.unwrap(), Service::start(|calls| if calls == 0 { 500 } else { 204 }).await);
    let pipeline = retail(&kafka, &webhook).await;
    let (mut worker, _) = pipeline.start("worker").await.unwrap();
    let (pool, others) = (pool(&pipeline).await, Others::new(&kafka));
    let critical = json!({"eventType": "ORDER_CREATE", "severity": "CRITICAL"});
    let mut wrong = order("wrong", "c-1");
    wrong["totals"]["total"] = json!(19);
    others.send_with("order-create", "c-1", "v-1", critical, wrong).await;
    others.send("order-create", "c-1", "v-2", "ORDER_CREATE", order("next", "c-1")).await;
    let first = failed(&pool, 1).await;
    eventually("somebody was asked to hear of it", READY, || async {
        ensure!(!webhook.calls().is_empty());
        Ok(())
    })
    .await
    .unwrap();
    worker.kill();
    set_back(&kafka, "retail", "order-create", 6).await;
    set_back(&kafka, "retail-dlq", "order-create-dlq", 6).await;
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let letters = dead(&kafka, "order-create", 2).await;
    assert_eq!(header(&letters[0], "dlq-id"), header(&letters[1], "dlq-id"));
    eventually("what is behind it is applied", READY, || async {
        ensure!(effects(&pool, "next").await? == 1);
        Ok(())
    })
    .await
    .unwrap();
    let told = || async {
        let alerted: Option<bool> =
            sqlx::query_scalar("SELECT alerted_at IS NOT NULL FROM retail.failed_messages").fetch_one(&pool).await?;
        ensure!(alerted == Some(true));
        Ok(())
    };
    // The lease of the killed one may have to end first.
    eventually("somebody is told", Duration::from_secs(180), told).await.unwrap();
    assert_eq!(failed(&pool, 1).await, first);
    let ids: Vec<String> = webhook.calls().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [first[0].0.clone(), first[0].0.clone()], "one refused, one taken, under one id");
}

const REFUSED_ONCE: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: laptop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: "kafka:9092"}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated}]
  api: {}
  worker: {callback: {url: "URL"}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn on_a_laptop_what_a_callback_refused_is_listed_and_replayed() {
    let callback = Service::start(|calls| if calls == 0 { 400 } else { 200 }).await;
    let laptop = Laptop::new(&REFUSED_ONCE.replace("URL", &callback.url));
    let mut up = laptop.up().await;
    let http = e2e::http(Duration::from_secs(10));
    let order = json!({"orderId": "o-1", "customerId": "c1", "items": [{"sku": "a", "quantity": 1}], "totalAmount": 12.5});
    let posted = http.post(format!("{}/orders", laptop.url)).header("X-API-Key", KEY).json(&order).send().await.unwrap();
    assert_eq!(posted.status().as_u16(), 202);
    let listed = eventually("it is kept", READY, || async {
        let (printed, _) = dlq(&laptop.url, KEY, &["list"]).await;
        ensure!(printed.contains("1 in all"), "{printed}");
        Ok(printed)
    });
    let listed = listed.await.unwrap();
    assert!(listed.contains("callbackRefused after 1") && listed.contains("answers 400"), "{listed}");
    // It is there after a kill as well.
    up.kill();
    let _up = laptop.up().await;
    let (printed, good) = dlq(&laptop.url, KEY, &["replay", "--all"]).await;
    assert!(good && printed.contains("1 replayed, 0 skipped"), "{printed}");
    // Killed before it was committed, it is told once more before it is replayed: a repeat can be told by its id.
    let calls = eventually("the callback takes it", READY, || async {
        let calls = callback.calls();
        ensure!(calls.len() >= 2, "{calls:?}");
        Ok(calls)
    });
    let calls = calls.await.unwrap();
    assert!(calls.iter().all(|call| *call == calls[0]), "the same event under the same id: {calls:?}");
    let (printed, _) = dlq(&laptop.url, KEY, &["list"]).await;
    assert!(printed.contains("1 in all") && printed.contains("replayed 1x"), "{printed}");
}
