//! The events that a step is worth: each step that a person cares for, told by who wrote it, and so once. Pure.

use crds::switch::{Attempt, Outcome, Phase, SwitchState};
use kube::runtime::events::{Event, EventType};

/// None: the step is of no interest to a person.
pub fn of(before: &SwitchState, after: &SwitchState) -> Option<Event> {
    let writing = &after.newest().backend;
    match (before.phase(), after.phase()) {
        (Phase::Steady, Phase::Prepare { target }) => {
            let by = &after.asked().by;
            let note =
                format!("from {writing} to {target}, as {by} asked: pods connect to {target}, orders are still written to {writing}");
            Some(event(EventType::Normal, "SwitchStarted", note))
        }
        (Phase::Prepare { .. } | Phase::Hold { .. }, Phase::Steady) if after.newest().epoch > before.newest().epoch => {
            let note = format!("orders are written to {writing}; workers drain {}", after.active().backend);
            Some(event(EventType::Normal, "SwitchOpened", note))
        }
        // There is no way back: what it was made for has been told.
        (Phase::Hold { restored: true, .. }, Phase::Steady) => None,
        (Phase::Prepare { .. } | Phase::Hold { .. }, Phase::Steady) => after.last().and_then(taken_back),
        _ if after.active().epoch > before.active().epoch => {
            let last = after.last()?;
            match last.outcome {
                Outcome::Abandoned => Some(event(EventType::Warning, "DrainAbandoned", last.message.clone())),
                Outcome::Completed => {
                    let note = format!(
                        "from {} to {}: workers have nothing left to read on {}, orders are written to {writing}",
                        last.from, last.to, last.from
                    );
                    Some(event(EventType::Normal, "SwitchCompleted", note))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn taken_back(attempt: &Attempt) -> Option<Event> {
    let reason = match attempt.outcome {
        Outcome::Refused => "SwitchRefused",
        Outcome::Aborted => "SwitchAborted",
        _ => return None,
    };
    let note = format!("from {} to {}: {}; orders are written to {} as before", attempt.from, attempt.to, attempt.message, attempt.from);
    Some(event(EventType::Warning, reason, note))
}

pub fn event(type_: EventType, reason: &str, note: String) -> Event {
    Event { type_, reason: reason.into(), note: Some(note), action: "Switch".into(), secondary: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crds::switch::{Asked, Request};

    fn asked() -> SwitchState {
        let first = SwitchState::first("l", "kafka");
        let request = Request { backend: "next".into(), by: "ops".into(), at: "".into(), lineage: None, revision: 1 };
        first.noted(first.ruling("kafka", &[request]).unwrap()).unwrap()
    }

    fn reason(before: &SwitchState, after: &SwitchState) -> Option<String> {
        of(before, after).map(|event| event.reason)
    }

    #[test]
    fn a_switch_is_told_from_its_start_to_its_end() {
        let prepared = asked().prepared().unwrap();
        let held = prepared.held().unwrap();
        let opened = held.opened().unwrap();
        let told = of(&asked(), &prepared).unwrap();
        assert_eq!(told.reason, "SwitchStarted");
        assert!(told.note.unwrap().contains("from kafka to next, as ops asked"));
        assert_eq!(of(&prepared, &held).map(|e| e.reason), None);
        assert_eq!(reason(&held, &opened).unwrap(), "SwitchOpened");
        assert_eq!(reason(&opened, &opened.activated(Outcome::Completed).unwrap()).unwrap(), "SwitchCompleted");
        let abandoned = of(&opened, &opened.activated(Outcome::Abandoned).unwrap()).unwrap();
        assert_eq!((abandoned.type_, abandoned.reason.as_str()), (EventType::Warning, "DrainAbandoned"));
    }

    #[test]
    fn what_is_taken_back_is_a_warning_that_says_why() {
        let prepared = asked().prepared().unwrap();
        let refused = of(&prepared, &prepared.aborted(Outcome::Refused, "shop-api-1 cannot use next: no topic", true).unwrap()).unwrap();
        assert_eq!((refused.type_, refused.reason.as_str()), (EventType::Warning, "SwitchRefused"));
        assert!(refused.note.unwrap().contains("no topic; orders are written to kafka as before"));
        let held = prepared.held().unwrap();
        assert_eq!(reason(&held, &held.aborted(Outcome::Aborted, "x", true).unwrap()).unwrap(), "SwitchAborted");
    }

    #[test]
    fn what_was_taken_back_is_told_once_although_the_state_is_put_right_later() {
        let done = asked().prepared().unwrap().held().unwrap().opened().unwrap().activated(Outcome::Completed).unwrap();
        let back = done.noted(Asked::by_spec("kafka".into(), done.revision() + 1)).unwrap().prepared().unwrap();
        let aborted = back.aborted(Outcome::Aborted, "x", true).unwrap();
        assert_eq!(reason(&back, &aborted).unwrap(), "SwitchAborted");
        let put_right = SwitchState::put_right(&aborted, &asked());
        assert_eq!(reason(&put_right, &put_right.opened().unwrap()), None);
    }
}
