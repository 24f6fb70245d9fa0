//! `pipeline-runtime up` and `check`: a laptop, one command, nothing else.

use crate::killed::{KILLS, ORDERS, plan, reached};
use anyhow::Result;
use e2e::bed::{Room, eventually, free_port};
use e2e::pipeline::{KEY, READY, effects, expected, metric, stored_in};
use e2e::product::Product;
use e2e::{ledger, load};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

pub const DOCUMENT: &str = r#"
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
pub struct Laptop {
    pub room: Arc<Room>,
    port: u16,
    pub url: String,
}

impl Laptop {
    pub fn new(document: &str) -> Laptop {
        let room = Room::new("up").unwrap();
        std::fs::write(room.path().join("pipeline.yaml"), document).unwrap();
        let port = free_port().unwrap();
        Laptop { room, port, url: format!("http://127.0.0.1:{port}") }
    }

    pub async fn up(&self) -> Product {
        self.up_with(Some(KEY)).await
    }

    /// Without waiting.
    pub fn launch(&self, key: Option<&str>) -> Product {
        let mut command = Product::command("pipeline-runtime", &["up", "pipeline.yaml", "--port", &self.port.to_string()]).unwrap();
        command.envs(key.map(|key| ("API_KEY", key)));
        Product::start("up", &self.room, command).unwrap()
    }

    async fn up_with(&self, key: Option<&str>) -> Product {
        let mut up = self.launch(key);
        up.ready(&format!("{}/readyz", self.url), READY).await.unwrap();
        up
    }

    pub fn state(&self) -> PathBuf {
        self.room.path().join(".orderpipeline/laptop/state.db")
    }

    pub fn edit(&self, document: &str) {
        std::fs::write(self.room.path().join("pipeline.yaml"), document).unwrap();
    }

    /// The orders that the API lists, at most 500.
    async fn orders(&self) -> Result<Vec<Json>> {
        let http = e2e::http(Duration::from_secs(10));
        let answer = http.get(format!("{}/orders?limit=500", self.url)).header("X-API-Key", KEY).send().await?;
        let body: Json = answer.error_for_status()?.json().await?;
        Ok(body["orders"].as_array().cloned().unwrap_or_default())
    }

    /// Runs lines of a shell, as a person in a fresh terminal would; what the API printed, if every line went well.
    fn shell(&self, lines: &str) -> String {
        let out = std::process::Command::new("sh").args(["-e", "-c", lines]).env_remove("API_KEY").output().unwrap();
        assert!(out.status.success(), "{lines}\n{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
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
        laptop.shell(&format!("API_KEY={KEY}\n{command} --fail --silent"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_commands_work_in_a_fresh_terminal_also_when_the_key_lies_in_an_env_file() {
    let laptop = Laptop::new(DOCUMENT);
    std::fs::write(laptop.room.path().join(".env"), "# mine\nexport API_KEY='a b-c'\n").unwrap();
    let up = laptop.up_with(None).await;
    let printed = up.printed();
    let lines: Vec<String> = printed
        .lines()
        .map(str::trim)
        .filter_map(|line| match line.starts_with("curl ") {
            true => Some(format!("{line} --fail --silent")),
            false => line.starts_with("API_KEY=").then(|| line.to_owned()),
        })
        .collect();
    assert!(lines.len() >= 3 && !printed.contains("a b-c"), "{printed}");
    laptop.shell(&lines.join("\n"));
}

/// The lines of a README's blocks of commands that call curl, each with what belongs to it.
fn curl_lines(readme: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut open = false;
    for block in readme.split("```").skip(1).step_by(2) {
        for line in block.lines() {
            match commands.last_mut() {
                Some(last) if open => *last = format!("{last}\n{line}"),
                _ if line.starts_with("curl ") => commands.push(line.to_owned()),
                _ => continue,
            }
            open = commands.last().is_some_and(|command| command.matches('\'').count() % 2 == 1);
        }
    }
    commands
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_examples_work_as_they_stand() {
    for (example, least) in [("quickstart", 4), ("orders", 5), ("two-brokers", 3)] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
        let laptop = Laptop::new(&std::fs::read_to_string(folder.join("pipeline.yaml")).unwrap());
        let up = laptop.up_with(None).await;
        let printed = up.printed();
        assert!(printed.contains("key \"dev\", since API_KEY is neither set nor in .env"), "{printed}");
        let commands = curl_lines(&std::fs::read_to_string(folder.join("README.md")).unwrap());
        assert!(commands.len() >= least, "{commands:?}");
        for command in commands {
            // An order can be read a moment after it was accepted: that is what the 202 says.
            let command = command.replace("localhost:8080", laptop.url.trim_start_matches("http://"));
            laptop.shell(&format!("{command} --fail-with-body --silent --retry 20 --retry-delay 1 --retry-all-errors"));
        }
    }
}

const GENERATED: &str = "  generator: {rate: 0}\n  telemetry: {logLevel: warn}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_a_rule_and_the_log_level_change_while_it_runs() {
    let laptop = Laptop::new(&format!("{DOCUMENT}{GENERATED}"));
    let up = laptop.up().await;
    assert!(laptop.orders().await.unwrap().is_empty());
    let faster = format!("{DOCUMENT}  generator: {{rate: 50}}\n  telemetry: {{logLevel: info}}\n");
    laptop.edit(&faster);
    let made = || async {
        let count = laptop.orders().await?.len();
        anyhow::ensure!(count > 20 && up.printed().contains("order published"), "{count} orders");
        Ok(())
    };
    eventually("orders are made, and said at the level of info", READY, made).await.unwrap();
    assert!(up.printed().contains("orderId=") && !up.printed().contains("\"level\":"), "a person reads plain lines: {}", up.tail());
    let generated = metric(&laptop.url, "orders_generated_total{result=\"published\"}").await.unwrap();
    let requests = metric(&laptop.url, "http_requests_total{method=\"GET\",route=\"/orders\"").await.unwrap();
    assert!(generated > 20.0 && requests > 0.0, "one process tells of all its roles: {generated}, {requests}");
    let ruled = faster.replace(
        "- name: OrderCreated\n",
        "- name: OrderCreated\n    rules: [{rule: \"data.?channel.orValue('web') != 'street'\", message: nothing comes from there, field: data.channel}]\n",
    );
    assert_ne!(ruled, faster);
    laptop.edit(&ruled);
    let http = e2e::http(Duration::from_secs(10));
    let order = json!({"customerId": "c1", "items": [{"sku": "a", "quantity": 1}], "totalAmount": 12.5, "channel": "street"});
    let refused = || async {
        let answer = http.post(format!("{}/orders", laptop.url)).header("X-API-Key", KEY).json(&order).send().await?;
        anyhow::ensure!(answer.status() == 422, "{}", answer.status());
        Ok(())
    };
    eventually("the new rule holds", READY, refused).await.unwrap();
    assert!(!up.printed().contains("starting anew"), "{}", up.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_and_a_role_that_are_added_while_it_runs_are_there_after_a_start_of_its_own() {
    let laptop = Laptop::new(&DOCUMENT.replace("  worker: {}\n", ""));
    let mut up = laptop.up().await;
    let order = json!({"orderId": "o-1", "customerId": "c1", "items": [{"sku": "a", "quantity": 1}], "totalAmount": 12.5});
    let http = e2e::http(Duration::from_secs(10));
    let post = || http.post(format!("{}/orders", laptop.url)).header("X-API-Key", KEY).header("X-Request-Id", "one").json(&order).send();
    assert_eq!(post().await.unwrap().status(), 202);
    // A mistake is refused, and the last good document goes on.
    laptop.edit(&DOCUMENT.replace("[{name: orders}]", "[{name: -orders}]"));
    let refused = || async {
        anyhow::ensure!(up.printed().contains("spec.topics[0].name"), "{}", up.tail());
        Ok(())
    };
    eventually("the mistake is said", READY, refused).await.unwrap();
    assert_eq!(post().await.unwrap().status(), 202);

    laptop.edit(&DOCUMENT.replace("[{name: orders}]", "[{name: orders}, {name: more}]").replace(
        "  - name: OrderCreated\n  - name: OrderStatusChanged\n",
        "  - {name: OrderCreated, topics: [orders]}\n  - name: OrderStatusChanged\n    topics: [more]\n",
    ));
    let applied = || async {
        anyhow::ensure!(laptop.orders().await?.len() == 1, "{}", up.tail());
        Ok(())
    };
    eventually("the worker that is new applies the order", READY, applied).await.unwrap();
    let patch = http.patch(format!("{}/orders/o-1", laptop.url)).header("X-API-Key", KEY).json(&json!({"status": "PACKED"}));
    assert_eq!(patch.send().await.unwrap().status(), 202);
    let changed = || async {
        let orders = laptop.orders().await?;
        anyhow::ensure!(orders[0]["status"] == "PACKED", "{orders:?}");
        Ok(())
    };
    eventually("the change on the new topic is applied", READY, changed).await.unwrap();
    up.signal(Signal::SIGINT).unwrap();
    let status = up.wait(Duration::from_secs(30)).await;
    assert!(status.as_ref().is_ok_and(|s| s.success()), "{status:?}\n{}", up.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_follow_is_said_and_the_last_good_document_goes_on() {
    let laptop = Laptop::new(DOCUMENT);
    let up = laptop.up().await;
    let edits = [
        (DOCUMENT.replace("name: laptop", "name: desktop"), "metadata.name was laptop and is desktop"),
        (DOCUMENT.replace("{name: orders}", "{name: orders, partitions: 2}"), "topic orders has 3 partitions and not the 2"),
    ];
    for (edited, said) in edits {
        laptop.edit(&edited);
        let said = || async {
            anyhow::ensure!(up.printed().contains(said), "{}", up.tail());
            Ok(())
        };
        eventually("it is said", READY, said).await.unwrap();
        assert!(laptop.orders().await.unwrap().is_empty());
    }
    std::fs::remove_file(laptop.room.path().join("pipeline.yaml")).unwrap();
    let said = || async {
        anyhow::ensure!(up.printed().contains("cannot be read any more"), "{}", up.tail());
        Ok(())
    };
    eventually("that the file is gone is said", READY, said).await.unwrap();
    assert!(laptop.orders().await.unwrap().is_empty() && !up.printed().contains("starting anew"), "{}", up.tail());
}

#[test]
fn check_reads_a_document_from_the_standard_input() {
    let run = |document: &str| {
        let mut command = Product::command("pipeline-runtime", &["check", "-"]).unwrap();
        let mut check = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        check.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
        let out = check.wait_with_output().unwrap();
        (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap())
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: beside}\n---";
    assert_eq!(run(&format!("{service}{DOCUMENT}")), (true, "stdin: good\n".to_owned()));
    let (good, said) = run(&DOCUMENT.replace("worker: {}", "worker: {batch: {size: many}}"));
    assert!(!good && said.starts_with("stdin: line 14: spec.worker.batch.size: "), "{said}");
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
