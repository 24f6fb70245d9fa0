//! The switch under every interleaving. Gates, readers and the coordinator are the real ones; the model is what lies around them: one
//! client that retries, two pods, workers that share a group, two brokers, and everything that may go wrong, each as often as the case says.
//!
//! `cargo test` takes random ways through every case, always the same ones, until it has a counterexample for each rule that is dropped.
//! All ways through all cases: `MODEL=all cargo test -p crds --release switch::model -- --nocapture`, or `MODEL=<beginning of a name>`.
//! More random ways through the cases that are too large for that: `WAYS=100000 cargo test -p crds --release switch::model::it_holds`.

mod cases;
mod leaders;
mod moves;
mod walk;
mod world;

use super::{ALL_RULES, Rule, Rules};
use moves::Move;
use stateright::{Checker, HasDiscoveries, Model};
use std::time::{Duration, Instant};
use world::Faults;

#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    /// The property that does not hold, because a rule is dropped.
    pub breaks: Option<&'static str>,
    pub rules: Rules,
    /// Rules that are not of these functions but of who calls them.
    pub one_dedupe: bool,
    pub compare_and_swap: bool,
    pub purged_is_unknown: bool,
    pub msgs: u8,
    pub switches: u8,
    pub one_pod: bool,
    /// What has happened before: where random ways from the beginning would find too rarely what breaks, or all of them are too many.
    pub begins: &'static [Move],
    pub ordered: bool,
    pub partitions: usize,
    pub workers: usize,
    /// So many of the workers write seals.
    pub sealers: usize,
    pub leaders: usize,
    /// Pods answer to Prepare one by one.
    pub prepare: bool,
    pub purges: bool,
    /// Leaders follow their list by a watch, which is late and may break off; otherwise what is said is known as soon as it is.
    pub follows: bool,
    /// Leaders may look at containers as they were before their last start.
    pub stale_pods: bool,
    /// The second pod is the worker's; what it processes it emits to the second partition.
    pub emits: bool,
    pub faults: Faults,
}

/// Random ways that are taken through each case.
const WAYS: u64 = 1000;
/// Through a case of much at once, each of them takes longer.
const LONG_WAYS: u64 = 300;
/// At most so many to find what breaks without a rule. The rarest took 4000 when this was written.
const WAYS_TO_FIND: u64 = 20_000;

/// Looking at every way through one case ends then; cases are made so small that it is enough.
const LONGEST: Duration = Duration::from_secs(600);

fn asked_for() -> Option<String> {
    std::env::var("MODEL").ok()
}

/// Every way through a case, or as many as it takes to find one on which this does not hold.
fn every_way(case: &Case, until: HasDiscoveries) -> Vec<(&'static str, Vec<Move>)> {
    let (started, threads) = (Instant::now(), if case.breaks.is_some() { 1 } else { 2 });
    // In depth: a switch takes dozens of moves, and only the numbers of the states that were seen are kept.
    let checker = case.clone().checker().threads(threads).finish_when(until).timeout(LONGEST).spawn_dfs().join();
    let (states, took) = (checker.unique_state_count(), started.elapsed());
    let broken: Vec<_> = checker.discoveries().into_iter().map(|(property, path)| (property, path.into_actions())).collect();
    let how = match broken.is_empty() {
        true if took >= LONGEST => "not looked at to the end".into(),
        true => "all holds".into(),
        false => format!("not so: {:?}", broken.iter().map(|(property, _)| property).collect::<Vec<_>>()),
    };
    println!("{}: {states} states, up to {} moves, {:.1} s: {how}", case.name, checker.max_depth(), took.as_secs_f32());
    broken
}

fn holds(case: &Case) {
    match asked_for() {
        Some(name) if is_meant(case, &name) => {
            let broken = every_way(case, HasDiscoveries::Any);
            assert!(broken.is_empty(), "{}: {broken:?}", case.name);
        }
        Some(_) => {}
        None => holds_on_ways(case, WAYS),
    }
}

fn is_meant(case: &Case, name: &str) -> bool {
    name == "all" || case.name.starts_with(name)
}

fn holds_on_ways(case: &Case, ways: u64) {
    let broken = (0..ways).find_map(|seed| walk::walk(case, seed));
    assert!(broken.is_none(), "{}: {broken:?}", case.name);
}

#[test]
fn with_all_rules_nothing_is_lost_doubled_or_reordered_and_every_switch_ends() {
    cases::with_all_rules().iter().for_each(holds);
}

#[test]
fn it_holds_when_much_happens_at_once() {
    let ways = std::env::var("WAYS").map_or(LONG_WAYS, |ways| ways.parse().unwrap());
    cases::with_much_at_once().iter().for_each(|case| holds_on_ways(case, ways));
}

#[test]
fn without_any_one_rule_something_breaks() {
    for case in cases::without_a_rule() {
        let property = case.breaks.unwrap();
        let found = match asked_for() {
            Some(name) if !is_meant(&case, &name) => continue,
            Some(_) => every_way(&case, HasDiscoveries::AllOf([property].into())).iter().any(|(broken, _)| *broken == property),
            None => (0..WAYS_TO_FIND).any(|seed| walk::walk(&case, seed).is_some_and(|broken| broken.property == property)),
        };
        assert!(found, "{}: yet {property:?} holds. Is it a rule?", case.name);
    }
}

#[test]
fn with_that_rule_it_holds() {
    cases::with_the_rule_again().iter().for_each(holds);
}

#[test]
fn every_rule_is_dropped_once() {
    let dropped = cases::without_a_rule();
    for rule in ALL_RULES {
        assert!(dropped.iter().any(|case| case.rules == Rules::without(rule)), "no case drops {rule:?}");
    }
}
