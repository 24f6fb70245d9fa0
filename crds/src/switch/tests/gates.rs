use super::*;

const LIMITS: Limits = Limits { purge_after: Duration::from_millis(500), cut_off_after: Duration::from_secs(600) };
const START: Duration = Duration::ZERO;

fn gate() -> Gate {
    Gate::new(Rules::default(), LIMITS, START)
}

fn serving(state: SwitchState) -> Gate {
    let mut gate = gate();
    gate.joined();
    assert!(gate.observe(Source::Quorum, &arc(state), START));
    gate
}

fn admitted(gate: &mut Gate) -> Arc<Opening> {
    match gate.admit() {
        Admit::Pass(opening) => opening,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_writes_when_it_has_joined_and_then_read_the_latest_state() {
    let first = arc(SwitchState::first("L", "kafka"));
    let mut gate = gate();
    assert!(!gate.observe(Source::Quorum, &first, START), "it was read before the coordinator could know of this pod");
    gate.joined();
    assert_eq!(gate.admit(), Admit::Wait);
    for old in [Source::Watch, Source::File] {
        assert!(!gate.observe(old, &first, START), "{old:?} may be old");
    }
    assert!(gate.observe(Source::Quorum, &first, START));
    let opening = admitted(&mut gate);
    assert_eq!((opening.epoch, &*opening.backend, &*opening.stamp), (1, "kafka", "L:1"));
}

#[test]
fn only_what_is_newer_is_obeyed_wherever_it_comes_from() {
    let mut gate = serving(holding());
    for source in [Source::Quorum, Source::Watch, Source::File] {
        assert!(!gate.observe(source, &arc(preparing()), START));
        assert!(!gate.observe(source, &arc(holding()), START));
    }
    assert!(gate.observe(Source::File, &arc(opened()), START), "the file can bring news");
    assert_eq!(&*admitted(&mut gate).backend, "azure");
}

#[test]
fn another_lineage_is_taken_from_the_api_server_and_never_left_again_for_an_old_one() {
    let mut gate = serving(opened());
    let anew = arc(SwitchState::anew("M", "kafka").opened().unwrap());
    assert!(!gate.observe(Source::File, &anew, START));
    assert!(gate.observe(Source::Watch, &anew, START));
    assert_eq!(&*admitted(&mut gate).stamp, "M:1");
    assert!(!gate.observe(Source::Watch, &arc(switched(&opened())), START), "a cache that lags");
}

#[test]
fn held_is_answered_when_the_last_publish_is_settled() {
    let mut gate = serving(preparing());
    let (one, two) = (admitted(&mut gate), admitted(&mut gate));
    assert!(!gate.settled(one.epoch), "nobody waits for it yet");
    let three = admitted(&mut gate);
    gate.observe(Source::Watch, &arc(holding()), START);
    assert_eq!((gate.admit(), gate.answer()), (Admit::Wait, None));
    assert!(!gate.settled(two.epoch));
    assert!(gate.settled(three.epoch), "this was the last one");
    let answer = gate.answer().unwrap();
    assert_eq!((answer.revision, answer.kind), (holding().revision(), AnswerKind::Held));
}

#[test]
fn what_is_not_settled_at_half_the_deadline_has_to_be_given_up() {
    let mut gate = serving(preparing());
    let opening = admitted(&mut gate);
    assert!(!gate.purge_due(100 * SECOND), "nothing is held");
    gate.observe(Source::Watch, &arc(holding()), 10 * SECOND);
    assert_eq!(gate.purge_at(), Some(10 * SECOND + LIMITS.purge_after));
    assert!(!gate.purge_due(10 * SECOND));
    assert!(gate.purge_due(10 * SECOND + LIMITS.purge_after));
    assert_eq!(gate.answer(), None, "due is not done");
    gate.settled(opening.epoch);
    assert!(!gate.purge_due(11 * SECOND) && gate.answer().is_some());
}

#[test]
fn prepare_is_answered_once_there_is_a_verdict_on_this_very_attempt() {
    let mut gate = serving(preparing());
    assert_eq!((gate.to_prepare().map(|to| &**to), gate.answer()), (Some("azure"), None));
    admitted(&mut gate);
    gate.prepared(&preparing(), Verdict::Refused("no such topic".into()));
    assert_eq!(gate.to_prepare(), None);
    let refused = gate.answer().unwrap();
    assert_eq!((refused.kind, refused.message.as_deref()), (AnswerKind::Refused, Some("no such topic")));

    let back = preparing().aborted(Outcome::Refused, "no such topic", true).unwrap();
    gate.observe(Source::Watch, &arc(back.clone()), START);
    assert_eq!(gate.answer(), None);
    gate.observe(Source::Watch, &arc(back.prepared().unwrap()), START);
    assert_eq!(gate.answer(), None, "the verdict was on another attempt");
    assert!(gate.to_prepare().is_some());
}

#[test]
fn the_answer_stays_the_same_when_something_else_is_written_in_the_same_phase() {
    let other = opened().noted(opened().ruling("kafka", &[]).unwrap()).unwrap().prepared().unwrap();
    let mut gate = serving(other.clone());
    gate.prepared(&other, Verdict::Ready);
    let before = gate.answer();
    assert!(before.is_some());
    assert!(gate.observe(Source::Watch, &arc(other.activated(Outcome::Completed).unwrap()), START));
    assert_eq!(gate.answer(), before);
}

#[test]
fn a_pod_that_stops_admits_nothing_and_still_answers() {
    let mut gate = serving(preparing());
    let opening = admitted(&mut gate);
    gate.stop();
    assert_eq!(gate.admit(), Admit::Closed(Closed::Stopping));
    assert_eq!(gate.answer().unwrap().kind, AnswerKind::Ready, "it needs no target");
    gate.observe(Source::Watch, &arc(holding()), START);
    assert_eq!(gate.answer(), None);
    gate.settled(opening.epoch);
    assert_eq!(gate.answer().unwrap().kind, AnswerKind::Held);
    gate.observe(Source::Watch, &arc(opened()), START);
    gate.tick(START);
    assert_eq!(gate.admit(), Admit::Closed(Closed::Stopping), "for good");
}

#[test]
fn a_pod_that_is_cut_off_closes_until_it_hears_again() {
    let mut gate = serving(opened());
    gate.heard(SECOND);
    assert!(!gate.tick(SECOND + LIMITS.cut_off_after - Duration::from_millis(1)));
    assert!(gate.tick(SECOND + LIMITS.cut_off_after));
    assert_eq!(gate.admit(), Admit::Closed(Closed::CutOff));
    let later = 700 * SECOND;
    assert!(!gate.observe(Source::File, &arc(opened()), later) && !gate.tick(later), "an old file is no word from the API server");
    gate.heard(later);
    assert!(gate.tick(later));
    assert_eq!(admitted(&mut gate).epoch, 2);
}
