use super::*;

fn reader(state: SwitchState) -> Reader {
    Reader::new(Rules::default(), arc(state))
}

fn seals(note: Option<&str>) -> Seals {
    Seals::new(&"L".into(), note)
}

fn to_seal(reader: &Reader) -> Vec<u64> {
    reader.to_seal().map(|open| open.epoch).collect()
}

#[test]
fn workers_read_the_active_broker_and_look_at_the_others_when_nothing_drains() {
    assert_eq!(["kafka", "azure"].map(|b| reader(holding()).reading(b)), [Reading::Active, Reading::Stragglers]);
    assert_eq!(["kafka", "azure"].map(|b| reader(opened()).reading(b)), [Reading::Active, Reading::Not]);
    let after = opened().activated(Outcome::Completed).unwrap();
    assert_eq!(["kafka", "azure"].map(|b| reader(after.clone()).reading(b)), [Reading::Stragglers, Reading::Active]);
}

#[test]
fn a_message_of_an_epoch_that_is_not_read_yet_waits_and_one_behind_its_seal_is_late() {
    let there_and_back = reader(switched(&opened()));
    assert_eq!(there_and_back.take(Some(b"L:1"), false, &seals(None)), Take::Process);
    assert_eq!(there_and_back.take(Some(b"L:1"), false, &seals(Some("L:1"))), Take::Late);
    assert_eq!(there_and_back.take(Some(b"L:1"), true, &seals(None)), Take::Seal(1));
    assert_eq!(there_and_back.take(Some(b"L:3"), false, &seals(None)), Take::NotYet(3));
    assert_eq!(there_and_back.take(Some(b"L:3"), true, &seals(None)), Take::NotYet(3));
    let left = reader(opened().activated(Outcome::Abandoned).unwrap());
    assert_eq!(left.take(Some(b"L:1"), false, &seals(None)), Take::Late);
}

#[test]
fn what_is_of_no_lineage_or_another_one_is_not_fenced() {
    for stamp in [None, Some(&b"M:9"[..]), Some(b"rubbish")] {
        assert_eq!(reader(opened()).take(stamp, false, &seals(None)), Take::Process, "{stamp:?}");
    }
}

#[test]
fn every_closed_epoch_is_sealed_once_by_a_worker_and_not_by_one_that_starts_when_it_is_known() {
    assert_eq!(to_seal(&reader(holding())), Vec::<u64>::new(), "it may be taken back");
    let state = switched(&opened());
    let mut worker = reader(state.clone());
    assert_eq!(to_seal(&worker), [1, 2]);
    worker.sealed(2);
    worker.sealed(7);
    assert_eq!(to_seal(&worker), [1]);
    assert_eq!(worker.reports().unwrap().sealed, [2], "there is no epoch 7");
    assert_eq!(to_seal(&reader(state.with_sealed(|epoch| epoch == 1))), [2]);
}

#[test]
fn a_broker_is_drained_when_every_partition_has_noted_the_seal() {
    let state = opened();
    assert!(drained(&state, [Some("L:1"), Some("L:2")]));
    for notes in [vec![Some("L:1"), None], vec![Some("L:1"), Some("L:0")], vec![Some("L:1"), Some("M:1")], vec![]] {
        assert!(!drained(&state, notes.clone()), "{notes:?}");
    }
    let mut worker = reader(state.clone());
    assert!(!worker.look_at_drain([None]));
    assert_eq!(worker.reports(), None);
    assert!(worker.look_at_drain([Some("L:1")]));
    assert!(worker.look_at_drain([None]), "what is drained stays drained");
    assert_eq!(worker.reports().unwrap().drained_through, 1);
    worker.obey(arc(state.activated(Outcome::Completed).unwrap()));
    assert!(!worker.look_at_drain([Some("L:2")]), "what is written is not drained");
}

#[test]
fn a_seal_is_noted_when_everything_before_it_is_complete() {
    let mut seals = seals(None);
    seals.read(10, 1);
    seals.read(12, 1);
    seals.read(20, 3);
    seals.complete(10);
    assert_eq!(seals.note(), None, "the seal itself is not complete");
    seals.complete(11);
    assert_eq!(seals.note().as_deref(), Some("L:1"));
    seals.complete(21);
    assert_eq!(seals.note().as_deref(), Some("L:3"));
    let mut next = Seals::new(&"L".into(), seals.note().as_deref());
    next.read(30, 1);
    next.complete(40);
    assert_eq!(next.through(), Some(3), "a repeated seal takes nothing back");
}

#[test]
fn another_lineage_begins_with_nothing_sealed_or_drained() {
    let mut worker = reader(opened());
    worker.sealed(1);
    worker.look_at_drain([Some("L:1")]);
    worker.obey(arc(SwitchState::anew("M", "kafka")));
    assert_eq!(worker.reports(), None);
}
