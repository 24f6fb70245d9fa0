//! The live switch: from broker to broker and back under load, with nothing lost, doubled or reordered.

use crate::killed::{plan, reached};
use crate::up::{DOCUMENT, Laptop};
use e2e::bed::eventually;
use e2e::fleet::storm::{FAULTS, Storm, pauses, storm};
use e2e::fleet::{self, Fleet, Shape};
use e2e::load::{Plan, Told};
use e2e::pipeline::{KEY, READY, effects, expected, stored_at, stored_in};
use e2e::product::Product;
use e2e::{ledger, load};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The document of a laptop with two brokers, both built in, on its way to this one.
fn towards(backend: &str) -> String {
    let two = |address: &str| format!("{{name: {address}, kafka: {{bootstrapServers: \"{address}:9092\"}}}}");
    let one = "backends: [{name: kafka, kafka: {bootstrapServers: \"kafka:9092\"}}]";
    assert!(DOCUMENT.contains(one));
    DOCUMENT.replace(one, &format!("backend: {backend}\n  backends: [{}, {}]", two("left"), two("right")))
}

async fn stored_all(laptop: &Laptop, told: &[Told]) {
    let wanted = expected(told);
    let all = || async {
        let has = effects(&stored_in(&laptop.state()).await?);
        anyhow::ensure!(has >= wanted, "{has} of {wanted}");
        Ok(())
    };
    let _ = eventually("everything accepted is stored", Duration::from_secs(60), all).await;
    ledger::verify(told, &stored_in(&laptop.state()).await.unwrap()).unwrap();
}

async fn said(up: &Product, what: &str, times: usize) {
    let told = || async {
        let count = up.printed().matches(what).count();
        anyhow::ensure!(count >= times, "{what:?} was said {count} times and not {times}\n{}", up.tail());
        Ok(())
    };
    eventually("the switch is done", READY, told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn saving_the_file_moves_a_laptop_from_broker_to_broker_and_back_under_load() {
    const ORDERS: usize = 6_000;
    const SWITCHES: usize = 8;
    let laptop = Laptop::new(&towards("left"));
    let up = laptop.up().await;
    let progress = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn(load::run(Plan { orders: ORDERS, ..plan(vec![laptop.url.clone()], "s") }, progress.clone()));
    for switch in 1..=SWITCHES {
        reached(&progress, switch * ORDERS / (SWITCHES + 1)).await.unwrap();
        laptop.edit(&towards(if switch % 2 == 1 { "right" } else { "left" }));
        said(&up, "writes go to", switch).await;
    }
    let told = load.await.unwrap().unwrap();
    stored_all(&laptop, &told).await;
    let repeats: usize = told.iter().map(|told| told.repeats).sum();
    assert_eq!(repeats, 0, "no request was refused\n{}", up.tail());
    said(&up, "is read to its end", SWITCHES).await;
    println!("{SWITCHES} switches, {} effects, pauses in ms: {:?}", expected(&told), pauses(&up.printed()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_asks_a_running_laptop_for_the_other_broker_and_the_next_start_stays_there() {
    let laptop = Laptop::new(&towards("left"));
    let mut up = laptop.up().await;
    let ask = |backend: &'static str, key: &'static str| {
        let mut command = Product::command("pipeline-runtime", &["switch", backend, "--url", &laptop.url]).unwrap();
        let out = command.env("API_KEY", key).output().unwrap();
        (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap())
    };
    let (done, says) = ask("right", KEY);
    assert!(done && says.contains("orders are written to right and read from it"), "{says}");
    let (done, says) = ask("nowhere", KEY);
    assert!(!done && says.contains("there are left, right"), "{says}");
    let (done, says) = ask("left", "a key that nobody has");
    assert!(!done && says.contains("401"), "{says}");
    // What was asked for beside the document holds until the document asks for something else.
    up.kill();
    let again = laptop.up().await;
    assert!(again.printed().contains("in the place of backend right"), "{}", again.tail());
    laptop.edit(&towards("right"));
    let rules = || async {
        let http = e2e::http(Duration::from_secs(5));
        let answer = http.get(format!("{}/admin/backend-mode", laptop.url)).header("X-API-Key", KEY).send().await?;
        let mode: serde_json::Value = answer.error_for_status()?.json().await?;
        anyhow::ensure!(mode["requested"]["by"] == "spec.backend" && mode["backend"] == "right", "{mode}");
        Ok(())
    };
    eventually("the document rules again", READY, rules).await.unwrap();
    laptop.edit(&towards("left"));
    said(&again, "moving from right to left: spec.backend asks for it", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_leaves_out_the_broker_where_orders_lie_is_refused_and_what_runs_goes_on() {
    let laptop = Laptop::new(&towards("left"));
    let mut up = laptop.up().await;
    laptop.edit(&DOCUMENT.replace("name: kafka,", "name: right,"));
    said(&up, "orders lie on backend left, which the document no longer names", 1).await;
    let told = load::run(Plan { orders: 50, ..plan(vec![laptop.url.clone()], "l") }, Arc::default()).await.unwrap();
    stored_all(&laptop, &told).await;
    laptop.edit(&towards("right"));
    said(&up, "left is read to its end", 1).await;
    laptop.edit(&DOCUMENT.replace("name: kafka,", "name: right,"));
    said(&up, "starting anew", 1).await;
    up.ready(&format!("{}/readyz", laptop.url), READY).await.unwrap();
}

/// Kafka to another Kafka and back, several times, by the real operator; the two have other numbers of partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_moves_between_two_kafka_clusters_and_back_under_load() {
    const ORDERS_EACH: usize = 1_000;
    const SWITCHES: usize = 6;
    let fleet = Fleet::start(Shape { right_partitions: 4, ..Shape::default() }).await.unwrap();
    let progress = Arc::new(AtomicUsize::new(0));
    let plan = Plan { orders: usize::MAX, key: fleet::KEY.into(), ..plan(vec![fleet.url()], "f") };
    let stop = plan.stop.clone();
    let load = tokio::spawn(load::run(plan, progress.clone()));
    let mut target = "left";
    for switch in 1..=SWITCHES {
        reached(&progress, switch * ORDERS_EACH).await.unwrap();
        target = if switch % 2 == 1 { "right" } else { "left" };
        let begun = std::time::Instant::now();
        fleet.switch_to(target).unwrap();
        fleet.until("writes go there", READY, |state| *state.newest().backend == *target).await.unwrap();
        println!("to {target}: open after {:?}, with {} orders", begun.elapsed(), progress.load(Ordering::Relaxed));
    }
    // It goes on for a while after the last one, however slow that was.
    reached(&progress, progress.load(Ordering::Relaxed) + ORDERS_EACH).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let told = load.await.unwrap().unwrap();
    fleet.settled_on(target, READY).await.unwrap();
    let shown = || async {
        let last = fleet.pipeline()?["status"]["backend"]["lastSwitch"].clone();
        anyhow::ensure!(last["writePauseMs"].is_number() && last["drainMs"].is_number(), "{last}");
        Ok(())
    };
    eventually("status says how long it took", READY, shown).await.unwrap();
    let (url, pipeline) = fleet.database();
    let wanted = expected(&told);
    let all = || async {
        let has = effects(&stored_at(&url, &pipeline).await?);
        anyhow::ensure!(has >= wanted, "{has} of {wanted}");
        Ok(())
    };
    let _ = eventually("everything accepted is stored", Duration::from_secs(60), all).await;
    ledger::verify(&told, &stored_at(&url, &pipeline).await.unwrap()).unwrap();
    let repeats: usize = told.iter().map(|told| told.repeats).sum();
    let pauses: Vec<Vec<f64>> = fleet.kubelet.printed().iter().map(|(_, printed)| pauses(printed)).filter(|p| !p.is_empty()).collect();
    println!("{SWITCHES} switches, {wanted} effects, {repeats} repeated requests, pauses of each pod in ms: {pauses:?}");
    assert_eq!(repeats, 0, "no request was refused\n{}", fleet.kubelet.tails());
}

/// Half of the switches with a fault, chosen by a seed. `SWITCHES`, `SEED`, `CLIENTS`, `PACE_MS`, `APIS`, `FAULT_EVERY` and `FAULTS` (their
/// names, with commas) change it; to measure, `WARM_UP` is in seconds and `DIRECT` leaves the proxies out.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered_whatever_goes_wrong_during_switches() {
    let number = |name: &str, otherwise: u64| std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap());
    let seed = number("SEED", rand::random::<u64>() % 1_000_000);
    println!("SEED={seed}");
    let direct = std::env::var_os("DIRECT").is_some();
    let shape = Shape { apis: number("APIS", 2) as usize, right_partitions: 4, direct, ..Shape::default() };
    let fleet = Fleet::start(shape).await.unwrap();
    let faults = std::env::var("FAULTS").map_or(FAULTS.to_vec(), |names| names.split(',').map(|name| name.parse().unwrap()).collect());
    let plan = Storm {
        switches: number("SWITCHES", 12) as usize,
        fault_every: number("FAULT_EVERY", 2) as usize,
        faults,
        clients: number("CLIENTS", 16) as usize,
        pace: Duration::from_millis(number("PACE_MS", 20)),
        warm_up: Duration::from_secs(number("WARM_UP", 0)),
        seed,
    };
    let mut outcome = storm(&fleet, &plan, async |url: String, pipeline: String| stored_at(&url, &pipeline).await).await.unwrap();
    println!("{outcome}");
    // What is lost or doubled is not to be hidden behind what has changed places.
    outcome.complaints.sort();
    assert!(outcome.complaints.is_empty(), "SEED={seed}\n{:#?}", &outcome.complaints[..outcome.complaints.len().min(20)]);
}
