//! Each function by itself; how they go together is what `model` looks at.

mod asking;
mod coordinating;
mod gates;
mod members;
mod reading;
mod states;

use super::*;
use crate::member::{Answer, AnswerKind};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings { rules: Rules::default(), prepare_deadline: 15 * SECOND, hold_deadline: SECOND, drain_deadline: None }
}

/// kafka is written and read, azure is asked for.
fn asked_for_azure() -> SwitchState {
    let first = SwitchState::first("L", "kafka");
    first.noted(first.ruling("azure", &[]).unwrap()).unwrap()
}

fn preparing() -> SwitchState {
    asked_for_azure().prepared().unwrap()
}

fn holding() -> SwitchState {
    preparing().held().unwrap()
}

/// kafka drains, azure is written.
fn opened() -> SwitchState {
    holding().opened().unwrap()
}

/// To the other one, as far as Open.
fn switched(from: &SwitchState) -> SwitchState {
    let to = if &*from.newest().backend == "kafka" { "azure" } else { "kafka" };
    let asked = from.noted(from.ruling(to, &[]).unwrap()).unwrap();
    asked.prepared().unwrap().held().unwrap().opened().unwrap()
}

fn answer(state: &SwitchState, kind: AnswerKind) -> Option<Answer> {
    Some(Answer { lineage: state.lineage().to_string(), revision: state.since(), kind, message: Some("no such topic".into()) })
}

fn member(name: &str, answer: Option<Answer>) -> Member {
    Member { name: name.into(), counts: true, answer, reports: None }
}

fn epochs(state: &SwitchState) -> Vec<(u64, &str)> {
    state.epochs().iter().map(|open| (open.epoch, &*open.backend)).collect()
}

fn arc(state: SwitchState) -> Arc<SwitchState> {
    Arc::new(state)
}
