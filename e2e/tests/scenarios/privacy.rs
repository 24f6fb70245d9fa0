//! Fields of persons: what `examples/retail` encrypts is nowhere in plain, and whoever may reads it; keys are rotated under load.

use crate::retail::{Others, order};
use anyhow::{Context, Result, ensure};
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{Pipeline, READY, dead, header};
use e2e::product::Product;
use rdkafka::message::{Message, OwnedMessage};
use serde_json::{Value as Json, json};
use sqlx::postgres::PgPoolOptions;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of the membership of every order; the number of the order follows.
const MEMBER: &str = "T1-PLAIN-";
/// The keys, 32 bytes each.
const KEYS: [(&str, &str); 3] = [
    ("match", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU="),
    ("2025-01", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
    ("2025-02", "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU="),
];
const API_KEYS: [(&str, &str); 2] = [("shop", "shop-key"), ("support", "support-key")];

/// The example with an API, on a real Kafka and PostgreSQL.
struct Retail {
    kafka: Kafka,
    pipeline: Pipeline,
    http: reqwest::Client,
}

impl Retail {
    async fn start() -> Retail {
        let kafka = Kafka::start(1).await.unwrap();
        let changes = [
            // Nobody listens: what is told there is another scenario's.
            ("urlSecretRef: {name: retail-alerts, key: url}", "url: 'http://127.0.0.1:9/'"),
            ("readers: [support]", "readers: [support]\n    newKeyAfter: 1s"),
            ("base: 1s", "base: 50ms"),
            // What may be said is said.
            ("logLevel: info", "logLevel: debug"),
        ];
        let pipeline = Pipeline::example(&kafka, "retail", &changes).await.unwrap();
        Retail { kafka, pipeline, http: e2e::http(Duration::from_secs(30)) }
    }

    /// A folder as Secrets are mounted, with these keys of encrypted fields.
    fn secrets(&self, name: &str, keys: &[&str]) -> PathBuf {
        let folder = self.pipeline.room.path().join(name);
        add(&folder.join("retail-api-keys"), &API_KEYS);
        add(&folder.join("retail-admin-keys"), &[("anna", "admin-key")]);
        keys.iter().for_each(|key| give(&folder, key));
        folder
    }

    async fn role(&self, role: &str, secrets: &Path) -> (Product, String) {
        self.pipeline.start_at(role, secrets).await.unwrap()
    }

    async fn post(&self, api: &str, number: usize) -> u16 {
        let mut order = order(&id(number), &format!("c-{}", number % 10));
        order["t1MembershipId"] = member(number).into();
        // A broker that is slow for a moment is no fault of the keys: the same is sent again, as the answer asks for.
        for _ in 0..60 {
            let request = self.http.post(format!("{api}/orders")).header("X-API-Key", "shop-key").header("X-Request-Id", id(number));
            let answer = request.json(&order).send().await.unwrap();
            let status = answer.status().as_u16();
            if status != 503 {
                return status;
            }
            let said = answer.text().await.unwrap();
            assert!(!said.contains("no_key"), "{said}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        503
    }

    async fn read(&self, api: &str, path: &str, key: &str) -> Result<Json> {
        let answer = self.http.get(format!("{api}{path}")).header("X-API-Key", key).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Waits until these orders are read with what they say.
    async fn until_read(&self, api: &str, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let read = || async {
                let order = self.read(api, &format!("/orders/{}", id(number)), "support-key").await?;
                ensure!(order["t1MembershipId"] == member(number), "{order}");
                Ok(())
            };
            eventually(&format!("order {number} is read"), READY, read).await.unwrap();
        }
    }

    async fn messages(&self, topic: &str) -> Vec<OwnedMessage> {
        self.kafka.messages(topic).await.unwrap()
    }

    /// All rows of all tables, as text.
    async fn stored(&self) -> Result<Vec<String>> {
        let pool = PgPoolOptions::new().max_connections(1).connect(&self.pipeline.postgres.url()).await?;
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'retail'").fetch_all(&pool).await?;
        ensure!(tables.len() >= 4, "{tables:?}");
        let mut rows = Vec::new();
        for table in tables {
            let all = sqlx::AssertSqlSafe(format!("SELECT t::text FROM retail.\"{table}\" t"));
            rows.extend(sqlx::query_scalar::<_, String>(all).fetch_all(&pool).await?);
        }
        Ok(rows)
    }
}

fn add(folder: &Path, entries: &[(&str, &str)]) {
    std::fs::create_dir_all(folder).unwrap();
    entries.iter().for_each(|(name, value)| std::fs::write(folder.join(name), value).unwrap());
}

fn give(secrets: &Path, key: &str) {
    let entry = KEYS.iter().find(|(name, _)| *name == key).unwrap();
    add(&secrets.join("retail-pii-keys"), &[*entry]);
}

fn id(number: usize) -> String {
    format!("p-{number:04}")
}

fn member(number: usize) -> String {
    format!("{MEMBER}{number:04}")
}

/// Everything that a message says, as text.
fn whole(message: &OwnedMessage) -> String {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    format!("{}\n{}\n{:?}", text(message.key()), text(message.payload()), message.headers())
}

fn message_id(message: &OwnedMessage) -> String {
    let body: Json = serde_json::from_slice(message.payload().unwrap()).unwrap();
    body["messageId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_is_nowhere_in_plain_and_is_read_by_who_may() {
    let retail = Retail::start().await;
    let secrets = retail.secrets("secrets", &["match", "2025-01"]);
    let ((api_process, api), (worker, _)) = (retail.role("api", &secrets).await, retail.role("worker", &secrets).await);
    for number in 0..3 {
        assert_eq!(retail.post(&api, number).await, 202);
        assert_eq!(retail.post(&api, number).await, 202, "a repeat is one");
    }
    // What the API refuses, and what others write: an order, its repeat, a wrong one, one that cannot be read, an order too few fields of which are there.
    let refused = json!({"orderId": "x", "t1MembershipId": {"no": member(90)}});
    let answer = retail.http.post(format!("{api}/orders")).header("X-API-Key", "shop-key").json(&refused).send().await.unwrap();
    assert_eq!(answer.status(), 422);
    assert!(!answer.text().await.unwrap().contains(MEMBER));
    let others = Others::new(&retail.kafka);
    let mut plain = order(&id(3), "c-3");
    plain["t1MembershipId"] = member(3).into();
    others.send("order-create", "c-3", "m-1", "ORDER_CREATE", plain.clone()).await;
    others.send("order-create", "c-3", "m-2", "ORDER_CREATE", plain.clone()).await;
    let mut wrong = plain.clone();
    (wrong["orderId"], wrong["lineItems"][0]["quantity"], wrong["totals"]["total"]) = (json!("wrong"), json!(0), json!(11));
    others.send("order-create", "c-3", "m-3", "ORDER_CREATE", wrong).await;
    others.raw("order-create", "c-3", format!(r#"{{"messageId": "m-4", "data": {{"t1MembershipId": "{}""#, member(3)).as_bytes()).await;
    let mut other = plain.clone();
    other["totals"] = json!({"total": 25, "tax": 5});
    others.send("order-create", "c-3", "m-5", "ORDER_CREATE", other).await;

    retail.until_read(&api, 0..4).await;
    let masked = retail.read(&api, &format!("/orders/{}", id(0)), "shop-key").await.unwrap();
    assert_eq!(masked["t1MembershipId"], "***", "{masked}");
    let list = retail.read(&api, "/orders?limit=10", "shop-key").await.unwrap().to_string();
    assert!(list.contains(&id(3)) && list.contains("***") && !list.contains(MEMBER) && !list.contains("pii:1:"), "{list}");

    let letters = dead(&retail.kafka, "order-create", 3).await;
    let reasons: Vec<String> = letters.iter().map(|letter| header(letter, "dlq-reason")).collect();
    for reason in ["every quantity must be above 0", "cut off", "exists with another content"] {
        assert!(reasons.iter().any(|said| said.contains(reason)), "{reason:?} is not among {reasons:?}");
    }
    // A dead letter is the message still: replayed, it fails as it did, and a mended one would not.
    for letter in &letters {
        others.raw("order-create", "c-3", letter.payload().unwrap()).await;
    }
    let again = dead(&retail.kafka, "order-create", 6).await;
    let again: Vec<String> = again[..].iter().map(|letter| header(letter, "dlq-reason")).collect();
    for reason in &reasons {
        assert_eq!(again.iter().filter(|said| *said == reason).count(), 2, "{reason:?}: {again:?}");
    }

    // The wrong order is kept for review, as its dead letter is.
    let kept = || async {
        let rows = retail.stored().await?;
        let is_kept = |row: &String| row.contains("every quantity must be above 0") && row.contains("pii:1:2025-01:");
        ensure!(rows.iter().any(is_kept), "{rows:#?}");
        Ok(rows)
    };
    let rows = eventually("the wrong order is kept", READY, kept).await.unwrap();
    let stored = rows.iter().filter(|row| row.contains("pii:1:2025-01:OrderCreated/data.t1MembershipId:")).count();
    assert!(stored >= 4 && !rows.iter().any(|row| row.contains(MEMBER)), "{rows:#?}");
    let mut sent = 0;
    for topic in ["order-create", "order-create-dlq", "order-events", "order-update"] {
        for message in retail.messages(topic).await {
            // What others wrote lies as they wrote it.
            let theirs = topic == "order-create" && message.key() == Some(b"c-3") && !whole(&message).contains("pii:1:");
            assert!(theirs || !whole(&message).contains(MEMBER), "{topic}: {}", whole(&message));
            sent += usize::from(topic == "order-create" && whole(&message).contains("pii:1:2025-01:"));
        }
    }
    assert!(sent >= 3, "{sent} orders of the API");
    for process in [&api_process, &worker] {
        let printed = process.printed();
        assert!(printed.len() > 1000 && !printed.contains(MEMBER), "{printed}");
    }
    println!("{stored} encrypted orders, {} rows, {} dead letters, not one membership in plain", rows.len(), letters.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_under_load_and_a_key_that_is_missing_is_waited_for() {
    let retail = Retail::start().await;
    let secrets = retail.secrets("secrets", &["match", "2025-01"]);
    let (api_process, api) = retail.role("api", &secrets).await;
    let (_worker, _) = retail.role("worker", &secrets).await;
    // The new key comes while orders do; two of three processes run on, one comes later.
    let (begun, mut number, mut late) = (Instant::now(), 0, None);
    let under = |key: &str| format!("pii:1:{key}:OrderCreated/");
    while begun.elapsed() < Duration::from_secs(25) {
        assert_eq!(retail.post(&api, number).await, 202);
        number += 1;
        if number == 50 {
            give(&secrets, "2025-02");
            late = Some(retail.role("worker", &secrets).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(late.is_some());
    retail.until_read(&api, 0..number).await;
    dead(&retail.kafka, "order-create", 0).await;
    // What was sent again lies there twice, under one id.
    let bodies: BTreeMap<String, String> =
        retail.messages("order-create").await.iter().map(|message| (message_id(message), whole(message))).collect();
    let count = |key: &str| bodies.values().filter(|body| body.contains(&under(key))).count();
    let (old, new) = (count("2025-01"), count("2025-02"));
    assert!(old >= 50 && new > 0 && old + new == number, "{old} old, {new} new, {number} in all");
    drop((api_process, _worker, late));

    // A worker without the old key applies nothing that it cannot read, and loses nothing of it.
    let few = retail.secrets("few", &["match", "2025-02"]);
    let old = retail.secrets("old", &["match", "2025-01"]);
    let (_api, api) = retail.role("api", &old).await;
    let (worker, _) = retail.role("worker", &few).await;
    for number in number..number + 3 {
        assert_eq!(retail.post(&api, number).await, 202);
    }
    let waits = || async {
        let printed = worker.printed();
        ensure!(printed.contains("2025-01") && printed.contains("loses no attempt"), "{}", worker.tail());
        Ok(())
    };
    eventually("the worker says which key is missing", READY, waits).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    dead(&retail.kafka, "order-create", 0).await;
    let ids: Vec<String> = (number..number + 3).map(id).collect();
    let rows = retail.stored().await.context("the tables").unwrap();
    assert!(!rows.iter().any(|row| ids.iter().any(|id| row.contains(id))), "none of them is stored");
    give(&few, "2025-01");
    retail.until_read(&api, number..number + 3).await;
    println!("{number} orders under load: {new} of them under the new key, none lost; 3 waited for a key and came");
}
