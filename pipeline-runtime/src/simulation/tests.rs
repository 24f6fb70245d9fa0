use super::*;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop, namespace: shop}
spec:
  backend: A
  backends: [{name: A, kafka: {bootstrapServers: 'a:9092'}}, {name: B, kafka: {bootstrapServers: 'b:9092'}}]
  topics: [{name: orders, partitions: 3}, {name: shipments, partitions: 1}]
  events:
  - name: Placed
    topics: [orders]
    effect: Create
    emit: [{topic: shipments, type: order.placed}]
  - name: Noted
    topics: [orders]
    effect: Update
    append: {notes: data.note}
  worker: {}
";

/// How many seeds a plain `cargo test` tries.
const SEEDS: u64 = 200;
/// How far a long run is.
const TOLD_EVERY: u64 = 10_000;
/// And how many at the most until it is noticed that something was left out.
const SEEDS_TO_NOTICE: u64 = 5000;

fn document() -> (Arc<RuntimeConfig>, Arc<Contract>) {
    static MADE: OnceLock<(Arc<RuntimeConfig>, Arc<Contract>)> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let mut config = crds::pipeline::resolve(&crds::document::read(DOCUMENT).unwrap());
        let worker = config.worker.as_mut().unwrap();
        (worker.batch_size, worker.poll_interval, worker.deadline) = (10, Duration::from_millis(300), Duration::from_secs(4));
        // No event is to blame for what fails here. And no jitter: it would be left to chance.
        (worker.retry.attempts, worker.retry.jitter_percent) = (1000, 0);
        let contract = Contract::compile(&config).unwrap();
        (Arc::new(config), Arc::new(contract))
    });
    made.clone()
}

fn simulate(seed: u64, without: Without) -> Run {
    let (config, contract) = document();
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { run(Arc::new(World::new(seed, without, config, contract))).await })
}

/// What the product says is worth reading when only one seed is run: RUST_LOG=info, or debug.
fn tell_everything() {
    let filter = EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_timer(Virtual).with_ansi(false).with_target(false).init();
}

/// In the time of the run.
struct Virtual;

impl FormatTime for Virtual {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        write!(writer, "{:8.3}", BEGAN.get_or_init(Instant::now).elapsed().as_secs_f64())
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn replay(seed: u64) -> String {
    format!("again: SEED={seed} cargo test --workspace --lib simulation -- --nocapture")
}

#[test]
fn whatever_fails_nothing_accepted_is_lost_doubled_or_reordered_and_every_switch_ends() {
    if let Some(seed) = number("SEED") {
        tell_everything();
        let run = simulate(seed, Without::Nothing);
        println!("seed {seed}: {:?}, {:?}, {:#?}", run.switches, run.took, run.broken);
        assert!(run.broken.is_empty());
        return;
    }
    let first = number("FIRST").unwrap_or(0);
    let end = first + number("SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let (failed, seen) = (Mutex::new(None), Mutex::new((Switches::default(), 0)));
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= end || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let run = simulate(seed, Without::Nothing);
                    let mut seen = seen.lock().unwrap();
                    seen.0.opened += run.switches.opened;
                    seen.0.taken_back += run.switches.taken_back;
                    seen.0.while_draining += run.switches.while_draining;
                    seen.1 += run.took.as_secs();
                    if (seed - first + 1).is_multiple_of(TOLD_EVERY) {
                        println!("{} seeds: {seen:?}", seed - first + 1);
                    }
                    if !run.broken.is_empty() {
                        *failed.lock().unwrap() = Some((seed, run.broken));
                    }
                }
            });
        }
    });
    println!("seeds {first} to {end}: {:?}", seen.into_inner().unwrap());
    if let Some((seed, broken)) = failed.into_inner().unwrap() {
        panic!("{}\n{broken:#?}", replay(seed));
    }
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 0..20 {
        assert_eq!(simulate(seed, Without::Nothing), simulate(seed, Without::Nothing), "seed {seed}");
    }
}

/// The first seed at which this is noticed.
fn noticed(without: Without, as_what: &[Kind]) {
    let tell = |seed| simulate(seed, without).broken.iter().any(|(kind, _)| as_what.contains(kind));
    let seed = (0..SEEDS_TO_NOTICE).find(|seed| tell(*seed));
    println!("without {without:?}: noticed at seed {seed:?}");
    assert!(seed.is_some(), "{without:?} was left out, and nobody noticed");
}

#[test]
fn without_the_fence_the_order_breaks() {
    noticed(Without::Fence, &[Kind::Reordered]);
}

#[test]
fn without_settling_before_held_the_order_breaks() {
    noticed(Without::Settling, &[Kind::Reordered]);
}

#[test]
fn without_dedupe_things_take_effect_twice() {
    noticed(Without::Dedupe, &[Kind::Doubled]);
}

#[test]
fn without_draining_the_order_breaks() {
    noticed(Without::Draining, &[Kind::Reordered]);
}

#[test]
fn without_waiting_for_all_pods_the_order_breaks() {
    noticed(Without::WaitForAll, &[Kind::Reordered]);
}

#[test]
fn with_unknown_outcomes_taken_for_good_orders_are_lost() {
    noticed(Without::Unknown, &[Kind::Lost]);
}
