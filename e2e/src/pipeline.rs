//! A pipeline under test: its document, its processes, and what its database holds.

use crate::bed::{Kafka, Postgres, Room, eventually, free_port};
use crate::ledger::Stored;
use crate::load::Told;
use crate::product::Product;
use anyhow::{Context, Result};
use rdkafka::message::{Headers, Message, OwnedMessage};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqliteConnectOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub const KEY: &str = "scenario-key";
/// Of documents with encrypted fields, where no Secret is mounted.
const PII_KEYS: &str = "2025-01=MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=,match=QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=";
pub const READY: Duration = Duration::from_secs(60);

/// Status changes append to a list, so that the order itself shows what took effect, how often and in which order.
const DOCUMENT: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: NAME}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: "BOOTSTRAP"}}]
  topics: [{name: NAME, partitions: 6, maxMessageSize: 11Mi}]
  events:
  - name: OrderCreated
  - name: OrderStatusChanged
    set: {status: data.status}
    append: {history: data.status}
  store: {postgres: {urlSecretRef: {name: db, key: url}}}
  api: {idempotency: IDEMPOTENCY}
  worker: {retry: {attempts: 3, base: 100ms}}
"#;

/// Kafka, PostgreSQL, and a pipeline on them whose topics exist.
pub struct Pipeline {
    pub name: String,
    pub room: Arc<Room>,
    pub document: PathBuf,
    pub postgres: Postgres,
}

impl Pipeline {
    /// `bootstrap` is where the pipeline reaches the broker: itself, or a proxy before it.
    pub async fn new(kafka: &Kafka, bootstrap: &str, idempotency: &str) -> Result<Pipeline> {
        let name = format!("orders-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let text = DOCUMENT.replace("NAME", &name).replace("BOOTSTRAP", bootstrap).replace("IDEMPOTENCY", idempotency);
        Pipeline::of(kafka, &text).await
    }

    /// One of the examples, as it lies there: but for the addresses, and what a test has to have otherwise (this, and that in its place).
    pub async fn example(kafka: &Kafka, name: &str, changes: &[(&str, &str)]) -> Result<Pipeline> {
        let folder = PathBuf::from(format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR")));
        let file = folder.join("pipeline.yaml");
        let secret = format!("{{name: {name}-db, key: url}}");
        let own = [("kafka:9092", &*kafka.bootstrap()), (&secret, "{name: db, key: url}")];
        let text = own.iter().chain(changes).try_fold(std::fs::read_to_string(file)?, |text, (from, to)| {
            anyhow::ensure!(text.contains(from), "the example {name} has no {from:?}");
            Ok(text.replace(from, to))
        })?;
        let pipeline = Pipeline::of(kafka, &text).await?;
        // Avro schemas lie beside the document.
        for entry in std::fs::read_dir(folder)?.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "avsc")) {
            std::fs::copy(entry.path(), pipeline.room.path().join(entry.file_name()))?;
        }
        Ok(pipeline)
    }

    pub async fn of(kafka: &Kafka, text: &str) -> Result<Pipeline> {
        let room = Room::new("scenario")?;
        let document = room.path().join("pipeline.yaml");
        std::fs::write(&document, text)?;
        let config = crds::document::read(text).map(|pipeline| crds::resolve(&pipeline));
        let config = config.map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
        for topic in &config.topics {
            let size = (topic.max_message_bytes + (64 << 10)).to_string();
            let size = [("max.message.bytes", size.as_str())];
            kafka.create_topic_with(&topic.name, i32::try_from(topic.partitions)?, &size).await?;
        }
        Ok(Pipeline { name: config.pipeline, room, document, postgres: Postgres::start().await? })
    }

    fn command(&self, role: &str, port: u16, secrets: &Path) -> Result<Command> {
        let listen = format!("127.0.0.1:{port}");
        let mut command = Product::command("pipeline-runtime", &[role, "--config", &self.document.to_string_lossy(), "--listen", &listen])?;
        command.arg("--secrets").arg(secrets);
        command.env("DB_URL", self.postgres.url()).env("API_KEY", KEY).env("PII_KEYS", PII_KEYS);
        Ok(command)
    }

    /// Starts a role and waits until it is connected. Returns its address.
    pub async fn start(&self, role: &str) -> Result<(Product, String)> {
        self.start_with(role, &[]).await
    }

    /// The same, with further variables of its environment.
    pub async fn start_with(&self, role: &str, environment: &[(&str, &str)]) -> Result<(Product, String)> {
        ready(self.launch_with(role, environment, &self.secrets())?).await
    }

    /// The same with another folder of Secrets.
    pub async fn start_at(&self, role: &str, secrets: &Path) -> Result<(Product, String)> {
        ready(self.launch_with(role, &[], secrets)?).await
    }

    /// The same without waiting.
    pub fn launch(&self, role: &str) -> Result<(Product, String)> {
        self.launch_with(role, &[], &self.secrets())
    }

    fn secrets(&self) -> PathBuf {
        self.room.path().join("secrets")
    }

    fn launch_with(&self, role: &str, environment: &[(&str, &str)], secrets: &Path) -> Result<(Product, String)> {
        let port = free_port()?;
        let mut command = self.command(role, port, secrets)?;
        command.envs(environment.iter().copied());
        let product = Product::start(&format!("{role}-{port}"), &self.room, command)?;
        Ok((product, format!("http://127.0.0.1:{port}")))
    }

    pub async fn stored(&self) -> Result<Vec<Stored>> {
        stored_at(&self.postgres.url(), &self.name).await
    }

    /// Waits until everything that was accepted has taken effect, or nothing more does; then says what is stored.
    pub async fn settled(&self, told: &[Told]) -> Result<Vec<Stored>> {
        let wanted = expected(told);
        let _ = eventually("everything accepted is stored", Duration::from_secs(60), || async {
            let has = effects(&self.stored().await?);
            anyhow::ensure!(has >= wanted, "{has} of {wanted} effects");
            Ok(())
        })
        .await; // what is missing is the ledger's to say
        self.stored().await
    }
}

async fn ready((mut product, url): (Product, String)) -> Result<(Product, String)> {
    product.ready(&format!("{url}/readyz"), READY).await?;
    Ok((product, url))
}

type Row = (String, Option<String>, Option<f64>, Option<String>, Option<String>, Option<String>);

fn stored((order_id, customer, total, status, items, history): Row) -> Result<Stored> {
    Ok(Stored {
        order_id,
        customer: customer.unwrap_or_default(),
        total: total.unwrap_or(f64::NAN),
        status,
        items: serde_json::from_str(items.as_deref().unwrap_or("null"))?,
        history: history.map_or(Ok(vec![]), |h| serde_json::from_str(&h)).context("history is a list of statuses")?,
    })
}

/// What a PostgreSQL store holds.
pub async fn stored_at(url: &str, pipeline: &str) -> Result<Vec<Stored>> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    let schema = pipeline.replace('-', "_");
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT order_id, customer_id, total_amount::float8, status, items::text, (fields->'history')::text FROM \"{schema}\".orders"
    )))
    .fetch_all(&pool)
    .await?;
    rows.into_iter().map(stored).collect()
}

/// What a SQLite store holds.
pub async fn stored_in(file: &std::path::Path) -> Result<Vec<Stored>> {
    let pool = sqlx::SqlitePool::connect_with(SqliteConnectOptions::new().filename(file).read_only(true)).await?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT order_id, customer_id, CAST(total_amount AS REAL), status, items, json_extract(fields, '$.history') FROM orders",
    )
    .fetch_all(&pool)
    .await?;
    rows.into_iter().map(stored).collect()
}

/// Waits for so many dead letters of a topic.
pub async fn dead(kafka: &Kafka, topic: &str, count: usize) -> Vec<OwnedMessage> {
    let letters = || async {
        let letters = kafka.messages(&format!("{topic}-dlq")).await?;
        anyhow::ensure!(letters.len() >= count, "{} of {count}", letters.len());
        Ok(letters)
    };
    let letters = eventually("the dead letters are there", READY, letters).await.unwrap();
    assert_eq!(letters.len(), count, "{letters:#?}");
    letters
}

/// The text of a message's header; empty if there is none.
pub fn header(message: &OwnedMessage, name: &str) -> String {
    let value = message.headers().and_then(|headers| headers.iter().find(|h| h.key == name)).and_then(|h| h.value);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// What a process counts under this name, over all labels.
pub async fn metric(url: &str, name: &str) -> Result<f64> {
    let metrics = crate::http(Duration::from_secs(5)).get(format!("{url}/metrics")).send().await?.text().await?;
    let of_name = metrics.lines().filter(|line| line.starts_with(name));
    Ok(of_name.filter_map(|line| line.split(' ').next_back()?.parse::<f64>().ok()).sum())
}

pub fn expected(told: &[Told]) -> usize {
    told.iter().map(Told::accepted).sum()
}

pub fn effects(stored: &[Stored]) -> usize {
    stored.iter().map(|s| 1 + s.history.len()).sum()
}
