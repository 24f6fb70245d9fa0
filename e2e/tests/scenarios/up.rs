//! `pipeline-runtime up` and `check`: a laptop, one command, nothing else.

use crate::killed::{KILLS, ORDERS, plan, reached};
use crate::pipeline::{KEY, READY, effects, expected, stored_in};
use anyhow::Result;
use e2e::bed::{Room, eventually, free_port};
use e2e::product::Product;
use e2e::{ledger, load};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

const DOCUMENT: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: laptop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: "kafka:9092"}}]
  topics: [{name: orders}]
  events:
  - name: OrderCreated
  - name: OrderStatusChanged
    set: {status: data.status}
    append: {history: data.status}
  api: {}
  worker: {}
"#;

/// A laptop: a folder with a document.
struct Laptop {
    room: Arc<Room>,
    port: u16,
    url: String,
}

impl Laptop {
    fn new(document: &str) -> Laptop {
        let room = Room::new("up").unwrap();
        std::fs::write(room.path().join("pipeline.yaml"), document).unwrap();
        let port = free_port().unwrap();
        Laptop { room, port, url: format!("http://127.0.0.1:{port}") }
    }

    async fn up(&self) -> Product {
        let mut command = Product::command("pipeline-runtime", &["up", "pipeline.yaml", "--port", &self.port.to_string()]).unwrap();
        command.env("API_KEY", KEY);
        let mut up = Product::start("up", &self.room, command).unwrap();
        up.ready(&format!("{}/readyz", self.url), READY).await.unwrap();
        up
    }

    fn state(&self) -> PathBuf {
        self.room.path().join(".orderpipeline/laptop/state.db")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_orders_survive_five_kills_of_the_whole_process() {
    let laptop = Laptop::new(DOCUMENT);
    let mut up = laptop.up().await;
    let progress = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn(load::run(plan(vec![laptop.url.clone()], "u"), progress.clone()));
    for kill in 1..=KILLS {
        reached(&progress, kill * ORDERS / (KILLS + 1)).await.unwrap();
        up.kill();
        up = laptop.up().await;
    }
    let told = load.await.unwrap().unwrap();
    let wanted = expected(&told);
    let all = || async {
        let has = effects(&stored_in(&laptop.state()).await?);
        anyhow::ensure!(has >= wanted, "{has} of {wanted}");
        Ok(())
    };
    let _ = eventually("everything accepted is stored", Duration::from_secs(60), all).await;
    let stored = stored_in(&laptop.state()).await.unwrap();
    ledger::verify(&told, &stored).unwrap();
    assert_eq!(stored.len(), ORDERS);
    println!(
        "{} orders, {} effects, the whole process killed {KILLS} times, memory {:?} KiB",
        stored.len(),
        effects(&stored),
        up.memory_kib()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_it_cleanly_and_the_next_up_goes_on_where_it_stopped() {
    let laptop = Laptop::new(DOCUMENT);
    let mut up = laptop.up().await;
    let http = e2e::http(std::time::Duration::from_secs(30));
    let order = json!({"customerId": "c1", "items": [{"sku": "a", "quantity": 1}], "totalAmount": 12.5});
    let post = || http.post(format!("{}/orders", laptop.url)).header("X-API-Key", KEY).header("X-Request-Id", "first").json(&order);
    let first: Json = post().send().await.unwrap().json().await.unwrap();
    let id = first["orderId"].as_str().unwrap().to_owned();
    let get = || async {
        let answer = http.get(format!("{}/orders/{id}", laptop.url)).header("X-API-Key", KEY).send().await?;
        Ok::<Json, anyhow::Error>(answer.error_for_status()?.json().await?)
    };
    let before = eventually("the order can be read", READY, get).await.unwrap();
    assert_eq!(before["totalAmount"], json!(12.5));
    up.signal(Signal::SIGINT).unwrap();
    let status = up.wait(Duration::from_secs(20)).await;
    assert!(status.as_ref().is_ok_and(|s| s.success()), "{status:?}\n{}", up.tail());

    let _up = laptop.up().await;
    assert_eq!(get().await.unwrap(), before, "the next up has the same order");
    let again: Json = post().send().await.unwrap().json().await.unwrap();
    assert_eq!(again, first, "and gives the same answer to the same request");
    assert_eq!(stored_in(&laptop.state()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_runs_where_and_what_to_try_and_its_commands_work() {
    let laptop = Laptop::new(DOCUMENT);
    let up = laptop.up().await;
    let printed = up.printed();
    assert!(printed.contains(&laptop.url) && printed.contains("worker") && printed.contains("state.db"), "{printed}");
    let commands: Vec<&str> = printed.lines().map(str::trim).filter(|l| l.starts_with("curl ")).collect();
    assert!(commands.len() >= 2, "{printed}");
    for command in commands {
        let out =
            std::process::Command::new("sh").args(["-c", &format!("{command} --fail --silent")]).env("API_KEY", KEY).output().unwrap();
        assert!(out.status.success(), "{command}\n{}", String::from_utf8_lossy(&out.stdout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_every_mistake_with_its_place_and_fails() -> Result<()> {
    let broken = DOCUMENT
        .replace("partitions", "partitons")
        .replace("name: orders}", "name: orders, partitions: 0}")
        .replace("worker: {}", "worker: {batch: {size: many}}");
    let laptop = Laptop::new(&broken);
    let mut command = Product::command("pipeline-runtime", &["check", "pipeline.yaml"])?;
    let out = command.current_dir(laptop.room.path()).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{text}");
    assert!(text.contains("spec.topics[0].partitions") && text.contains("spec.worker.batch.size"), "{text}");

    let sound = Laptop::new(DOCUMENT);
    let out = Product::command("pipeline-runtime", &["check", "pipeline.yaml"])?.current_dir(sound.room.path()).output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
