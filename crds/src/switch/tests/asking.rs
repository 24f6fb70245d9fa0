use super::*;

fn request(backend: &str, by: &str, revision: u64) -> Request {
    Request { backend: backend.into(), by: by.into(), at: "2026-01-01T00:00:00Z".into(), lineage: Some("L".into()), revision }
}

fn ruled(state: &SwitchState, spec: &str, requests: &[Request]) -> SwitchState {
    state.noted(state.ruling(spec, requests).unwrap()).unwrap()
}

#[test]
fn the_document_rules_until_someone_asks_and_again_when_it_is_changed() {
    let first = SwitchState::first("L", "kafka");
    assert_eq!(first.ruling("kafka", &[]), None);
    let alice = request("azure", "alice", 1);
    let asked = ruled(&first, "kafka", std::slice::from_ref(&alice));
    assert_eq!((&*asked.asked().backend, &*asked.asked().by), ("azure", "alice"));
    assert_eq!(asked.ruling("kafka", std::slice::from_ref(&alice)), None, "it rules already");

    let changed = ruled(&asked, "third", std::slice::from_ref(&alice));
    assert_eq!((&*changed.asked().backend, &*changed.asked().by), ("third", "spec.backend"));
    assert_eq!(
        changed.ruling("third", &[alice]),
        None,
        "what was asked before the document was changed is over, though it still stands there"
    );
}

#[test]
fn of_several_requests_the_one_that_saw_most_rules_whatever_the_clocks_say() {
    let first = SwitchState::first("L", "kafka");
    let mut early = request("azure", "alice", 1);
    early.at = "2029-01-01T00:00:00Z".into();
    let asked = ruled(&first, "kafka", std::slice::from_ref(&early));
    let late = request("kafka", "bob", asked.revision());
    assert_eq!(&*ruled(&asked, "kafka", &[late.clone(), early.clone()]).asked().by, "bob");
    assert_eq!(&*ruled(&asked, "kafka", &[early, late]).asked().by, "bob");
}

#[test]
fn a_request_that_names_a_revision_to_come_does_not_rule_again_and_again() {
    let first = SwitchState::first("L", "kafka");
    let ahead = request("azure", "alice", first.revision() + 1);
    assert_eq!((first.ruling("kafka", std::slice::from_ref(&ahead)), first.standing(&ahead)), (None, Standing::Ahead));
    let bob = request("azure", "bob", 1);
    assert_eq!(&*ruled(&first, "kafka", &[ahead, bob]).asked().by, "bob", "it does not stand in the way of others");
}

#[test]
fn what_was_asked_of_an_earlier_pipeline_of_the_name_is_over() {
    let first = SwitchState::first("L", "kafka");
    let mut copied = request("azure", "alice", 1);
    copied.lineage = Some("K".into());
    assert_eq!((first.ruling("kafka", std::slice::from_ref(&copied)), first.standing(&copied)), (None, Standing::Over));
    copied.lineage = None;
    assert_eq!(first.standing(&copied), Standing::New, "whoever writes it by hand need not know the lineage");
}

#[test]
fn another_request_forgets_how_often_the_last_one_failed() {
    let failed = preparing().aborted(Outcome::Refused, "no such topic", true).unwrap();
    assert_eq!(failed.last().unwrap().failures, 1);
    assert_eq!(ruled(&failed, "kafka", &[]).last().unwrap().failures, 0);
    let same = ruled(&failed, "azure", &[request("azure", "alice", failed.revision())]);
    assert_eq!(same.last().unwrap().failures, 0, "a person who asks again wants it now");
}
