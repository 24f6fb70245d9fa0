use super::*;
use crate::member::{MemberPod, PipelineMemberSpec, Role};

fn written(name: &str, version: u64, answer: Option<Answer>) -> Written {
    let pod = MemberPod { name: name.into(), uid: name.into(), container_started_at: "2026-01-01T10:00:00Z".into() };
    let said = PipelineMemberSpec {
        pipeline: "shop".into(),
        role: Role::Api,
        pod,
        brokers: None,
        connected: vec![],
        answer,
        reports: None,
        request: None,
        paused: None,
    };
    Written { version: Some(version), said: Some(Arc::new(said)) }
}

fn wrote(roll: &mut Roll, name: &str, version: u64, answer: Option<Answer>) {
    roll.hear(&name.into(), Heard::Wrote { object: written(name, version, answer), in_order: true });
}

/// Listed while azure was prepared, and followed since.
fn roll(members: &[(&str, u64)]) -> Roll {
    let members = members.iter().map(|(name, version)| ((*name).into(), written(name, *version, None)));
    Roll::listed(Rules::default(), "L".into(), preparing().revision(), members).followed(true)
}

fn said(roll: &Roll) -> Vec<(String, Option<u64>)> {
    let members = roll.listing(&holding()).unwrap().members;
    members.iter().map(|member| (member.name.to_string(), member.answer.as_ref().map(|answer| answer.revision))).collect()
}

fn after(roll: &Roll) -> u64 {
    roll.listing(&holding()).unwrap().after
}

#[test]
fn what_is_heard_later_than_the_list_counts_and_what_is_older_does_not() {
    let mut roll = roll(&[("one", 10), ("two", 11)]);
    let held = answer(&holding(), AnswerKind::Held);
    wrote(&mut roll, "one", 9, held.clone());
    wrote(&mut roll, "two", 12, held);
    assert_eq!(said(&roll), [("one".into(), None), ("two".into(), Some(holding().since()))]);
}

#[test]
fn who_leaves_is_not_waited_for_and_who_joins_is() {
    let mut roll = roll(&[("one", 10), ("two", 11)]);
    roll.hear(&"one".into(), Heard::Left { version: Some(20) });
    wrote(&mut roll, "three", 21, None);
    assert_eq!(said(&roll), [("three".into(), None), ("two".into(), None)]);
    roll.hear(&"two".into(), Heard::Left { version: Some(8) });
    assert_eq!(said(&roll).len(), 2, "that was another one of this name, before the list");
}

#[test]
fn one_that_cannot_be_read_any_more_is_waited_for() {
    let mut roll = roll(&[("one", 10)]);
    wrote(&mut roll, "one", 11, answer(&holding(), AnswerKind::Held));
    roll.hear(&"one".into(), Heard::Wrote { object: Written { version: Some(12), said: None }, in_order: true });
    assert_eq!(said(&roll), [("one".into(), None)]);
}

#[test]
fn a_list_that_was_followed_is_one_of_the_hold_once_somebody_has_answered_to_it() {
    let heard = |to: &SwitchState, in_order: bool, followed: bool| {
        let mut roll = roll(&[("one", 10)]).followed(followed);
        let object = written("one", 11, answer(to, AnswerKind::Held));
        roll.hear(&"one".into(), Heard::Wrote { object, in_order });
        after(&roll)
    };
    assert_eq!(heard(&holding(), true, true), holding().since());
    assert_eq!(heard(&preparing(), true, true), preparing().since(), "an answer to an earlier phase");
    assert_eq!(heard(&holding(), false, true), preparing().since(), "others may still be told of that the watch has missed");
    assert_eq!(heard(&holding(), true, false), preparing().since(), "what was told between the list and now is not known");
    assert_eq!(heard(&SwitchState::first("M", "kafka"), true, true), preparing().since(), "another lineage");
}

#[test]
fn a_container_that_was_started_again_counts_until_it_is_looked_at() {
    let mut roll = roll(&[("one", 10)]);
    roll.look_at(|_| None, vec![]);
    let counts = |roll: &Roll| roll.listing(&holding()).unwrap().members[0].counts;
    assert!(!counts(&roll));
    wrote(&mut roll, "one", 11, None);
    assert!(!counts(&roll), "the same container");
    let Written { said, .. } = written("one", 12, None);
    let mut said = said.unwrap().as_ref().clone();
    said.pod.container_started_at = "2026-01-01T10:00:07Z".into();
    let object = Written { version: Some(12), said: Some(Arc::new(said)) };
    roll.hear(&"one".into(), Heard::Wrote { object, in_order: true });
    assert!(counts(&roll));
}

#[test]
fn no_list_is_made_in_a_hold_if_the_one_of_before_it_will_do() {
    let before = roll(&[("one", 10)]);
    assert!(before.will_do(&holding()));
    assert!(!before.clone().followed(false).will_do(&holding()));
    assert!(!before.will_do(&SwitchState::anew("M", "kafka")), "another lineage");
    assert!(!roll(&[]).will_do(&holding()), "nobody is there who could answer");
}

#[test]
fn who_takes_the_names_of_backends_for_other_brokers_has_answered_nothing_until_it_is_gone() {
    let says = |name: &str, brokers: Option<&str>| {
        let mut written = written(name, 1, answer(&preparing(), AnswerKind::Ready));
        let said = PipelineMemberSpec { brokers: brokers.map(str::to_owned), ..(*written.said.unwrap()).clone() };
        written.said = Some(Arc::new(said));
        (name.into(), written)
    };
    let members = [says("old", Some("a")), says("new", Some("b")), says("silent", None)];
    let mut roll = Roll::listed(Rules::in_force(), "L".into(), preparing().revision(), members);
    let elsewhere = roll.elsewhere("b");
    assert_eq!(elsewhere, ["old".into()]);
    let listing = roll.listing(&preparing()).unwrap().unanswered_by(&elsewhere);
    let waited_for: Vec<&str> = listing.members.iter().filter(|member| member.answer.is_none()).map(|member| &*member.name).collect();
    assert_eq!(waited_for, ["old"]);
    let running = |uid: &str| Pod { uid: uid.into(), ended: false, container: Container::Running };
    roll.look_at(|member| (member.name != "old").then(|| running(&member.uid)), vec![]);
    assert_eq!(roll.elsewhere("b"), Vec::<Arc<str>>::new());
}
