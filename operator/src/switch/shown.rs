//! How a switch is shown in status: where orders are written and read, which request rules and why, what is waited for. Pure, and
//! nothing in it moves by itself.

use super::state_map::Trouble;
use crds::pipeline::{AnyJson, BackendStatus, LastSwitch, SwitchRequest};
use crds::switch::{Outcome, Phase, SwitchState};

#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub backend: BackendStatus,
    pub switching: Switching,
}

/// The condition of that name.
#[derive(Clone, Debug, PartialEq)]
pub struct Switching {
    /// True, False or Unknown.
    pub value: &'static str,
    pub reason: String,
    pub message: String,
}

/// What there is to say beside the state itself.
#[derive(Debug, Default)]
pub struct Notes<'a> {
    /// What is waited for.
    pub why: Option<&'a str>,
    /// Requests that cannot be followed.
    pub ignored: &'a [String],
    pub drain_ms: Option<i64>,
    /// The longest that pods have told of.
    pub pause_ms: Option<i64>,
    pub now: &'a str,
}

pub fn shown(state: &SwitchState, before: &BackendStatus, notes: &Notes) -> Shown {
    let (active, newest) = (state.active(), state.newest());
    let backend = BackendStatus {
        active: Some(active.backend.to_string()),
        writing: Some(newest.backend.to_string()),
        epoch: i64::try_from(newest.epoch).ok(),
        phase: Some(phase(state).into()),
        requested: Some(requested(state, notes.ignored)),
        last_switch: last_switch(state, before, notes),
        mirror: serde_json::to_value(state).ok().map(AnyJson),
    };
    Shown { backend, switching: switching(state, notes.why) }
}

/// What was shown before stays; only that nothing is done, and why, is new.
pub fn in_trouble(trouble: &Trouble, before: &BackendStatus) -> Shown {
    let switching = Switching { value: "Unknown", reason: trouble.reason.into(), message: trouble.message.clone() };
    Shown { backend: before.clone(), switching }
}

fn phase(state: &SwitchState) -> &'static str {
    match state.phase() {
        Phase::Prepare { .. } => "Prepare",
        Phase::Hold { .. } => "Hold",
        Phase::Steady if state.drains() => "Draining",
        Phase::Steady => "Steady",
    }
}

fn requested(state: &SwitchState, ignored: &[String]) -> SwitchRequest {
    let asked = state.asked();
    let mut rules = match asked.at.is_empty() {
        true => format!("{} asks for {}", asked.by, asked.backend),
        false => format!("{} asked for {}, and that rules until spec.backend is no longer {}", asked.by, asked.backend, asked.spec),
    };
    for sentence in ignored {
        rules = format!("{rules}; {sentence}");
    }
    SwitchRequest { by: Some(asked.by.to_string()), at: Some(asked.at.to_string()).filter(|at| !at.is_empty()), rules: Some(rules) }
}

fn last_switch(state: &SwitchState, before: &BackendStatus, notes: &Notes) -> Option<LastSwitch> {
    let known = |from: &str, to: &str| before.last_switch.as_ref().filter(|last| last.from == from && last.to == to);
    match state.phase() {
        Phase::Prepare { target } | Phase::Hold { target, .. } if *target != state.newest().backend => {
            let from = state.newest().backend.to_string();
            // One that is shown without an outcome is this one.
            let begun = known(&from, target).filter(|last| last.outcome.is_none()).and_then(|last| last.started_at.clone());
            let started_at = Some(begun.unwrap_or_else(|| notes.now.to_owned()));
            Some(LastSwitch { from, to: target.to_string(), started_at, ..Default::default() })
        }
        _ => {
            let last = state.last()?;
            let known = known(&last.from, &last.to);
            let opened = !matches!(last.outcome, Outcome::Aborted | Outcome::Refused);
            Some(LastSwitch {
                from: last.from.to_string(),
                to: last.to.to_string(),
                started_at: known.and_then(|known| known.started_at.clone()),
                write_pause_ms: notes.pause_ms.filter(|_| opened).max(known.and_then(|known| known.write_pause_ms)),
                drain_ms: notes.drain_ms.or(known.and_then(|known| known.drain_ms)).filter(|_| last.outcome == Outcome::Completed),
                outcome: Some(format!("{:?}", last.outcome)),
                message: Some(last.message.clone()).filter(|message| !message.is_empty()),
            })
        }
    }
}

fn switching(state: &SwitchState, why: Option<&str>) -> Switching {
    let (writing, reading) = (&state.newest().backend, &state.active().backend);
    let (value, reason, mut message) = match state.phase() {
        Phase::Prepare { target } => (
            "True",
            "Prepare".into(),
            format!("from {writing} to {target}: pods connect to {target}, orders are still written to {writing}"),
        ),
        Phase::Hold { target, .. } if target == writing => {
            ("True", "Hold".into(), format!("orders wait until every pod has heard that they are written to {writing}"))
        }
        Phase::Hold { target, .. } => {
            ("True", "Hold".into(), format!("from {writing} to {target}: orders wait until no pod writes to {writing} any more"))
        }
        Phase::Steady if state.drains() => ("True", "Draining".into(), format!("orders are written to {writing}; workers drain {reading}")),
        Phase::Steady => settled(state),
    };
    if let Some(why) = why.filter(|why| !message.contains(*why)) {
        message = format!("{message}; {why}");
    }
    Switching { value, reason, message }
}

fn settled(state: &SwitchState) -> (&'static str, String, String) {
    let (writing, asked) = (&state.newest().backend, &state.asked().backend);
    match state.last() {
        Some(last) if matches!(last.outcome, Outcome::Aborted | Outcome::Refused) => {
            ("False", format!("{:?}", last.outcome), format!("from {} to {}: {}", last.from, last.to, last.message))
        }
        _ if asked != writing => ("False", "Waiting".into(), format!("{asked} is asked for, orders are written to {writing}")),
        Some(last) if last.outcome == Outcome::Abandoned => ("False", "Abandoned".into(), last.message.clone()),
        Some(last) => {
            ("False", "Completed".into(), format!("from {} to {}: orders are written to {writing} and read from it", last.from, last.to))
        }
        None => ("False", "NoSwitch".into(), format!("orders are written to {writing} and read from it")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crds::switch::Request;

    fn asked() -> SwitchState {
        let first = SwitchState::first("l", "kafka");
        let request = Request { backend: "next".into(), by: "ops".into(), at: "2026-01-01T00:00:00Z".into(), lineage: None, revision: 1 };
        first.noted(first.ruling("kafka", &[request]).unwrap()).unwrap()
    }

    fn at(now: &str) -> Notes<'_> {
        Notes { now, ..Default::default() }
    }

    #[test]
    fn a_switch_is_shown_from_its_start_to_its_end() {
        let prepared = asked().prepared().unwrap();
        let first = shown(&prepared, &BackendStatus::default(), &at("10:00"));
        assert_eq!((first.switching.value, first.switching.reason.as_str()), ("True", "Prepare"));
        assert_eq!(first.backend.phase.as_deref(), Some("Prepare"));
        assert_eq!(first.backend.last_switch.as_ref().unwrap().started_at.as_deref(), Some("10:00"));
        assert_eq!(shown(&prepared, &first.backend, &at("10:09")), first, "nothing moves by itself");

        let opened = prepared.held().unwrap().opened().unwrap();
        let draining = shown(&opened, &first.backend, &Notes { why: Some("workers drain kafka"), pause_ms: Some(41), ..at("10:10") });
        assert_eq!(draining.switching.message, "orders are written to next; workers drain kafka");
        let backend = &draining.backend;
        assert_eq!((backend.active.as_deref(), backend.writing.as_deref(), backend.epoch), (Some("kafka"), Some("next"), Some(2)));
        let last = backend.last_switch.as_ref().unwrap();
        assert_eq!((last.outcome.as_deref(), last.started_at.as_deref()), (Some("Opened"), Some("10:00")));

        let done = shown(&opened.activated(Outcome::Completed).unwrap(), backend, &Notes { drain_ms: Some(7), ..at("10:11") });
        assert_eq!((done.switching.value, done.switching.reason.as_str()), ("False", "Completed"));
        let last = done.backend.last_switch.unwrap();
        assert_eq!((last.outcome.as_deref(), last.started_at.as_deref(), last.drain_ms), (Some("Completed"), Some("10:00"), Some(7)));
        assert_eq!(last.write_pause_ms, Some(41), "although the pod that told of it may have gone");
    }

    #[test]
    fn says_which_request_rules_and_which_is_ignored() {
        let ignored = ["web asked for nowhere, which spec.backends does not have: ignored".to_owned()];
        let rules = |state: &SwitchState| requested(state, &ignored).rules.unwrap();
        assert!(rules(&asked()).starts_with("ops asked for next, and that rules until spec.backend is no longer kafka; web asked"));
        assert!(rules(&SwitchState::first("l", "kafka")).starts_with("spec.backend asks for kafka; web asked"));
    }

    #[test]
    fn a_failed_attempt_says_why_and_what_comes_next() {
        let aborted =
            asked().prepared().unwrap().held().unwrap().aborted(Outcome::Aborted, "shop-api-1 did not stop writing", true).unwrap();
        let notes = Notes { why: Some("the next one comes after a pause"), pause_ms: Some(41), ..at("10:00") };
        let shown = shown(&aborted, &BackendStatus::default(), &notes);
        assert_eq!(shown.backend.last_switch.unwrap().write_pause_ms, None, "that was the pause of the one before");
        assert_eq!((shown.switching.value, shown.switching.reason.as_str()), ("False", "Aborted"));
        assert_eq!(shown.switching.message, "from kafka to next: shop-api-1 did not stop writing; the next one comes after a pause");
    }

    #[test]
    fn a_hold_that_leads_nowhere_else_is_no_switch() {
        let opened = asked().prepared().unwrap().held().unwrap().opened().unwrap();
        let put_right = SwitchState::put_right(&opened, &asked());
        let shown = shown(&put_right, &BackendStatus::default(), &at("10:00"));
        assert_eq!(shown.switching.message, "orders wait until every pod has heard that they are written to next");
        assert_eq!(shown.backend.last_switch.unwrap().outcome.as_deref(), Some("Opened"), "the last one is still that");
    }

    #[test]
    fn a_second_attempt_has_a_start_of_its_own() {
        let prepared = asked().prepared().unwrap();
        let aborted = prepared.aborted(Outcome::Refused, "no topic", true).unwrap();
        let first = shown(&prepared, &BackendStatus::default(), &at("10:00"));
        let back = shown(&aborted, &first.backend, &at("10:01"));
        let again = shown(&aborted.prepared().unwrap(), &back.backend, &at("10:05"));
        assert_eq!(again.backend.last_switch.unwrap().started_at.as_deref(), Some("10:05"));
    }
}
