use super::*;
use crate::member::{MemberPod, Reports};

struct Scene {
    settings: Settings,
    state: SwitchState,
    spec: &'static str,
    listing: Option<Listing>,
    mirrored: u64,
    abandon: Option<u64>,
    obstacle: Option<&'static str>,
    leaving: bool,
    now: Duration,
}

/// Everyone is listed, status shows everything, azure is asked for, and no time has passed.
fn scene(state: SwitchState, members: Vec<Member>) -> Scene {
    let (listing, mirrored) = (Some(Listing { after: state.revision(), members }), state.revision());
    let (abandon, obstacle, leaving, now) = (None, None, false, Duration::ZERO);
    Scene { settings: settings(), state, spec: "azure", listing, mirrored, abandon, obstacle, leaving, now }
}

impl Scene {
    fn step(&self) -> Step {
        let Scene { spec, mirrored, abandon, obstacle, leaving, .. } = *self;
        let observed = Observed { spec, requests: &[], obstacle, listing: self.listing.as_ref(), mirrored, abandon, leaving };
        step(&self.settings, &self.state, &observed, Since { phase: Duration::ZERO, drain: Duration::ZERO }, self.now)
    }
    fn written(&self) -> SwitchState {
        match self.step() {
            Step::Write(state) => state,
            other => panic!("{other:?}"),
        }
    }
    /// What is written until nothing more drains: that a seal is known comes first.
    fn after_seal(mut self) -> SwitchState {
        while self.state.drains() {
            self.state = self.written();
            self.mirrored = self.state.revision();
        }
        self.state
    }
    /// What it waits for.
    fn waits(&self) -> String {
        match self.step() {
            Step::Wait { why, .. } => why.unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }
    fn at(mut self, now: Duration) -> Scene {
        self.now = now;
        self
    }
}

fn is_hold(state: &SwitchState) -> bool {
    matches!(state.phase(), Phase::Hold { .. })
}

fn reports(sealed: &[u64], drained_through: u64) -> Member {
    let reports = Some(Reports { lineage: "L".into(), sealed: sealed.to_vec(), drained_through, topics: vec![] });
    Member { name: "worker-0".into(), counts: false, answer: None, reports }
}

#[test]
fn a_switch_takes_five_writes_and_then_there_is_nothing_to_do() {
    let first = SwitchState::first("L", "kafka");
    assert_eq!(Scene { spec: "kafka", ..scene(first.clone(), vec![]) }.step(), Step::Done);
    let noted = scene(first, vec![]).written();
    let prepare = scene(noted, vec![]).written();
    let hold = scene(prepare.clone(), vec![member("api-0", answer(&prepare, AnswerKind::Ready))]).written();
    let open = scene(hold.clone(), vec![member("api-0", answer(&hold, AnswerKind::Held))]).written();
    assert_eq!(epochs(&open), [(1, "kafka"), (2, "azure")]);
    assert!(scene(open.clone(), vec![]).waits().contains("workers drain kafka"));
    let done = scene(open, vec![reports(&[1], 1)]).written();
    assert_eq!(epochs(&done), [(2, "azure")]);
    assert_eq!(scene(done, vec![]).step(), Step::Done);
}

#[test]
fn hold_waits_for_all_that_are_listed_after_it() {
    let hold = holding();
    let held = answer(&hold, AnswerKind::Held);
    let missing =
        scene(hold.clone(), vec![member("api-0", held.clone()), member("api-1", answer(&hold, AnswerKind::Ready)), member("api-2", None)]);
    assert_eq!(missing.waits(), "api-1, api-2 did not stop writing");
    let old_listing = Listing { after: hold.since() - 1, members: vec![member("api-0", held.clone())] };
    assert_eq!(Scene { listing: Some(old_listing), ..scene(hold.clone(), vec![]) }.waits(), "no list of the pods");
    let excused = Member { counts: false, ..member("api-1", None) };
    assert_eq!(scene(hold.clone(), vec![member("api-0", held), excused]).written().newest().epoch, 2);
    let of_another = Some(Answer { lineage: "M".into(), revision: 99, kind: AnswerKind::Held, message: None });
    assert_eq!(scene(hold, vec![member("api-0", of_another)]).waits(), "api-0 did not stop writing");
}

#[test]
fn a_hold_that_is_overdue_is_taken_back_and_names_who_was_missing() {
    let members = (0..8).map(|i| member(&format!("api-{i}"), None)).collect();
    let back = scene(holding(), members).at(SECOND).written();
    let last = back.last().unwrap();
    assert_eq!((last.outcome, last.failures), (Outcome::Aborted, 1));
    assert_eq!(last.message, "api-0, api-1, api-2, api-3, api-4 and 3 more did not stop writing within the deadline");
}

#[test]
fn a_refusal_ends_prepare_at_once_and_the_deadline_does_too() {
    let prepare = preparing();
    let refused = scene(prepare.clone(), vec![member("api-0", None), member("api-1", answer(&prepare, AnswerKind::Refused))]).written();
    let last = refused.last().unwrap();
    assert_eq!((last.outcome, last.message.as_str()), (Outcome::Refused, "api-1 cannot use azure: no such topic"));
    let silent = scene(prepare, vec![member("api-0", None)]);
    assert_eq!(silent.waits(), "api-0 did not say whether azure can be used");
    assert_eq!(silent.at(15 * SECOND).written().last().unwrap().outcome, Outcome::Aborted);
}

#[test]
fn the_next_attempt_comes_after_a_pause_that_doubles_up_to_five_minutes() {
    let mut state = asked_for_azure();
    for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
        state = state.prepared().unwrap().aborted(Outcome::Aborted, "", true).unwrap();
        let before = pause * SECOND - Duration::from_millis(1);
        assert_eq!(
            scene(state.clone(), vec![]).at(before).step(),
            Step::Wait {
                until: Some(pause * SECOND),
                why: Some("the last attempt to switch to azure failed; the next one comes after a pause".into())
            }
        );
        assert!(matches!(scene(state.clone(), vec![]).at(pause * SECOND).written().phase(), Phase::Prepare { .. }));
    }
}

#[test]
fn another_wish_during_prepare_takes_it_back_without_a_pause() {
    let back = Scene { spec: "third", ..scene(preparing(), vec![]) }.written();
    assert_eq!((back.phase(), back.last().unwrap().failures), (&Phase::Steady, 0));
    assert_eq!(back.last().unwrap().message, "spec.backend asked for third meanwhile");
    let noted = Scene { spec: "third", ..scene(back, vec![]) }.written();
    let next = Scene { spec: "third", ..scene(noted, vec![]) }.written();
    assert_eq!(next.phase(), &Phase::Prepare { target: "third".into() });
}

#[test]
fn a_wish_for_what_is_written_already_ends_nothing_and_begins_nothing() {
    let noted = Scene { spec: "kafka", ..scene(asked_for_azure(), vec![]) }.written();
    assert_eq!(Scene { spec: "kafka", ..scene(noted, vec![]) }.step(), Step::Done);
}

#[test]
fn a_broker_is_opened_again_when_its_earlier_epochs_are_sealed() {
    let open = opened();
    let prepare = Scene { spec: "kafka", ..scene(open, vec![]) }.written();
    let prepare = Scene { spec: "kafka", ..scene(prepare, vec![]) }.written();
    let back = |members| Scene { spec: "kafka", ..scene(prepare.clone(), members) };
    assert!(back(vec![]).waits().contains("the seals of epoch 1 to kafka"));
    let hold = back(vec![reports(&[1], 0)]).written();
    assert!(is_hold(&hold) && hold.epochs()[0].sealed, "and what is known of it is kept");
}

#[test]
fn a_drain_is_left_when_a_person_says_so_or_its_deadline_does() {
    let open = opened();
    let abandoned = Scene { abandon: Some(1), ..scene(open.clone(), vec![]) }.written();
    assert_eq!((epochs(&abandoned), abandoned.last().unwrap().outcome), (vec![(2, "azure")], Outcome::Abandoned));
    let mut scene = scene(open, vec![]);
    scene.settings.drain_deadline = Some(60 * SECOND);
    assert!(matches!(scene.step(), Step::Wait { until: Some(at), .. } if at == 60 * SECOND));
    assert_eq!(epochs(&scene.at(60 * SECOND).written()), [(2, "azure")]);
}

#[test]
fn where_nothing_is_read_there_is_nothing_to_drain_and_nothing_is_left_behind() {
    let mut scene = scene(opened(), vec![]);
    scene.settings.drain_deadline = Some(Duration::ZERO);
    let done = scene.written();
    assert_eq!((epochs(&done), done.last().unwrap().outcome), (vec![(2, "azure")], Outcome::Completed));
}

#[test]
fn nothing_but_the_end_of_a_hold_is_written_before_status_shows_what_was() {
    for state in [asked_for_azure(), preparing(), opened(), SwitchState::rebuilt(&preparing())] {
        let ahead = Scene { mirrored: state.revision() - 1, ..scene(state, vec![reports(&[1], 1)]) };
        assert!(ahead.waits().contains("status does not show"));
    }
    assert!(!is_hold(&Scene { mirrored: 0, ..scene(holding(), vec![]) }.written()));
}

#[test]
fn a_rebuilt_hold_has_no_way_back() {
    let rebuilt = SwitchState::rebuilt(&preparing());
    let missing = Scene { leaving: true, ..scene(rebuilt.clone(), vec![member("api-0", None)]) }.at(3600 * SECOND);
    assert!(missing.waits().contains("writes to azure begin when that is done"));
    let held = answer(&rebuilt, AnswerKind::Held);
    assert_eq!(epochs(&scene(rebuilt, vec![member("api-0", held)]).written()), epochs(&opened()));
}

#[test]
fn a_rebuilt_hold_waits_for_the_seals_that_prepare_would_have_waited_for() {
    let back = opened().noted(opened().ruling("kafka", &[]).unwrap()).unwrap().prepared().unwrap();
    let rebuilt = SwitchState::rebuilt(&back);
    let held = || member("api-0", answer(&rebuilt, AnswerKind::Held));
    let unsealed = Scene { spec: "kafka", ..scene(rebuilt.clone(), vec![held()]) }.at(3600 * SECOND);
    assert!(unsealed.waits().contains("the seals of epoch 1 to kafka"));
    let sealed = Scene { spec: "kafka", ..scene(rebuilt.clone(), vec![held(), reports(&[1], 0)]) };
    assert_eq!(epochs(&sealed.written()), [(1, "kafka"), (2, "azure"), (3, "kafka")]);
    let anew = SwitchState::anew("M", "kafka");
    assert_eq!(epochs(&scene(anew, vec![]).written()), [(1, "kafka")], "there is nothing to seal before an epoch without another");
}

#[test]
fn a_leader_that_leaves_begins_nothing_and_takes_back_what_it_cannot_end() {
    let leaving = |state: SwitchState, members| Scene { leaving: true, ..scene(state, members) };
    assert_eq!(leaving(asked_for_azure(), vec![]).step(), Step::Done);
    assert_eq!(leaving(holding(), vec![member("api-0", None)]).written().last().unwrap().failures, 0);
    assert_eq!(leaving(holding(), vec![]).written().newest().epoch, 2, "what can be ended is ended");
}

#[test]
fn an_obstacle_is_said_before_a_switch_begins() {
    let old_pods = Scene { obstacle: Some("2 pods know only one backend yet"), ..scene(asked_for_azure(), vec![]) };
    assert_eq!(old_pods.waits(), "2 pods know only one backend yet");
}

#[test]
fn deadlines_are_measured_from_when_this_process_first_saw_the_phase() {
    let mut sight = Sight::default();
    let open = opened();
    assert_eq!(sight.of(&open, 10 * SECOND), Since { phase: 10 * SECOND, drain: 10 * SECOND });
    let noted = open.noted(open.ruling("kafka", &[]).unwrap()).unwrap();
    assert_eq!(sight.of(&noted, 20 * SECOND), Since { phase: 10 * SECOND, drain: 10 * SECOND }, "the same phase");
    let prepare = noted.prepared().unwrap();
    assert_eq!(sight.of(&prepare, 30 * SECOND), Since { phase: 30 * SECOND, drain: 10 * SECOND });
    let active = prepare.activated(Outcome::Completed).unwrap();
    assert_eq!(sight.of(&active, 40 * SECOND), Since { phase: 30 * SECOND, drain: 40 * SECOND });
}

#[test]
fn a_member_is_waited_for_unless_the_container_that_wrote_it_can_write_no_more() {
    let member = MemberPod { name: "api-0".into(), uid: "u".into(), container_started_at: "2026-01-01T10:00:05.250Z".into() };
    let pod = |container| Pod { uid: "u".into(), ended: false, container };
    let ended = |at: &str| pod(Container::NotRunning { ended_at: Some(at.into()) });
    let counts = |pod: Option<Pod>| counts(Rules::default(), &member, pod.as_ref());
    assert!(counts(Some(pod(Container::Running))));
    assert!(!counts(None), "gone");
    assert!(!counts(Some(Pod { uid: "another".into(), ..pod(Container::Running) })), "gone, and another has its name");
    assert!(!counts(Some(Pod { ended: true, ..pod(Container::Running) })), "Succeeded or Failed");
    assert!(!counts(Some(ended("2026-01-01T10:00:06Z"))));
    assert!(counts(Some(ended("2026-01-01T10:00:05Z"))), "it may have been the one before: fractions of a second are cut off");
    assert!(counts(Some(ended("2026-01-01T09:00:00Z"))), "that was the one before: this look is stale");
    assert!(counts(Some(pod(Container::NotRunning { ended_at: None }))), "that is not known to have ended");
    assert!(counts(Some(ended("rubbish"))));
}

#[test]
fn a_worker_that_does_not_read_a_topic_does_not_say_that_all_is_sealed_and_read() {
    let draining = switched(&SwitchState::first("L", "kafka"));
    let of = |topics: &[&str]| {
        let mut member = reports(&[1], 1);
        member.reports.as_mut().unwrap().topics = topics.iter().copied().map(str::to_owned).collect();
        member
    };
    let own = ["orders", "returns"].map(str::to_owned).into();
    let with = |members: Vec<Member>| {
        let mut scene = scene(draining.clone(), members);
        scene.listing = scene.listing.map(|listing| listing.of_all(&own));
        scene
    };
    assert!(with(vec![of(&["orders"])]).waits().contains("workers drain kafka"), "one from before returns were added");
    let active = |state: SwitchState| state.active().backend.clone();
    assert_eq!(&*active(with(vec![of(&["orders"]), of(&["orders", "returns"])]).after_seal()), "azure");
    assert_eq!(&*active(with(vec![of(&["orders", "returns", "and one that is gone from the document"])]).after_seal()), "azure");
}
