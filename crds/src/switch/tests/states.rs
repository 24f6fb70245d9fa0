use super::*;

#[test]
fn a_switch_goes_through_prepare_hold_and_open_and_each_step_is_a_revision() {
    let first = SwitchState::first("L", "kafka");
    let states = [first.clone(), asked_for_azure(), preparing(), holding(), opened(), opened().activated(Outcome::Completed).unwrap()];
    assert_eq!(states.each_ref().map(|state| state.revision()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(epochs(&states[3]), [(1, "kafka")]);
    assert_eq!(epochs(&states[4]), [(1, "kafka"), (2, "azure")]);
    assert_eq!(epochs(&states[5]), [(2, "azure")]);
    assert_eq!(states[4].last().unwrap().outcome, Outcome::Opened);
    assert_eq!(states[5].last().unwrap().outcome, Outcome::Completed);
}

#[test]
fn what_is_taken_back_leaves_the_epochs_as_they_were_and_says_why() {
    for begun in [preparing(), holding()] {
        let back = begun.aborted(Outcome::Aborted, "api-1 did not answer", true).unwrap();
        assert_eq!((epochs(&back), back.phase()), (vec![(1, "kafka")], &Phase::Steady));
        let last = back.last().unwrap();
        assert_eq!((&*last.from, &*last.to, last.message.as_str(), last.failures), ("kafka", "azure", "api-1 did not answer", 1));
        let again = back.prepared().unwrap().aborted(Outcome::Aborted, &"x".repeat(5000), true).unwrap();
        assert_eq!(again.last().unwrap().failures, 2);
        assert_eq!(again.last().unwrap().message.len(), 1000, "what is kept is bounded");
    }
}

#[test]
fn a_step_that_the_protocol_does_not_have_is_not_made() {
    let first = SwitchState::first("L", "kafka");
    assert!(first.prepared().unwrap_err().0.contains("kafka is written to already"));
    assert!(first.held().is_err() && first.opened().is_err() && first.activated(Outcome::Completed).is_err());
    assert!(first.aborted(Outcome::Aborted, "", true).is_err());
    assert!(asked_for_azure().held().is_err() && asked_for_azure().opened().is_err());
    assert!(preparing().opened().is_err() && preparing().prepared().is_err());
    assert!(holding().held().is_err() && holding().noted(holding().asked().clone()).is_err());
    let other = Asked::by_spec("kafka".into(), 9);
    assert!(preparing().noted(other).unwrap_err().0.contains("azure is being prepared"));
}

#[test]
fn at_most_eight_epochs_are_open() {
    let mut state = SwitchState::first("L", "kafka");
    for _ in 1..MOST_OPEN {
        state = switched(&state);
    }
    assert_eq!(epochs(&state).len(), MOST_OPEN);
    let to = if &*state.newest().backend == "kafka" { "azure" } else { "kafka" };
    let asked = state.noted(state.ruling(to, &[]).unwrap()).unwrap();
    assert!(asked.prepared().unwrap_err().0.contains("let the workers catch up, or abandon the drain"));
    assert!(asked.activated(Outcome::Completed).unwrap().prepared().is_ok());
}

#[test]
fn a_state_is_read_as_it_was_written_and_one_of_another_version_by_nobody() {
    for state in [SwitchState::first("L", "kafka"), preparing(), holding(), opened(), SwitchState::rebuilt(&holding())] {
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(SwitchState::parse(&text).unwrap(), state, "{text}");
        let newer = text.replace(r#""version":1"#, r#""version":2,"more":[]"#);
        let error = SwitchState::parse(&newer).unwrap_err();
        assert!(matches!(error, StateError::Version { found: 2 }), "{error}");
        assert!(error.to_string().contains("until it is upgraded"));
    }
}

#[test]
fn a_state_that_cannot_be_is_not_read() {
    let text = serde_json::to_string(&opened()).unwrap();
    for (from, to, why) in [
        (r#""epoch":2"#, r#""epoch":3"#, "one after the other"),
        (r#""active":1"#, r#""active":2"#, "one after the other"),
        (r#""phase":"Steady""#, r#""phase":"Hold""#, "does not go with target"),
        (r#""lineage":"L""#, r#""lineage":"""#, "has a lineage"),
        (r#""since":5"#, r#""since":6"#, "at its revision 5 or before"),
    ] {
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text, "{from}");
        let error = SwitchState::parse(&wrong).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn what_is_rebuilt_is_newer_than_all_that_anyone_can_have_seen() {
    // Status saw Prepare; Hold and Open were written after it.
    assert!(SwitchState::rebuilt(&preparing()).revision() > opened().revision());
    // Status saw Steady: nothing but Prepare can have been written after it.
    assert!(SwitchState::rebuilt(&asked_for_azure()).revision() > preparing().revision());
}

#[test]
fn what_is_rebuilt_holds_where_the_target_may_have_been_opened_and_opens_it_under_the_same_epoch() {
    for mirror in [preparing(), holding()] {
        let rebuilt = SwitchState::rebuilt(&mirror);
        assert!(matches!(rebuilt.phase(), Phase::Hold { restored: true, .. }));
        assert_eq!(epochs(&rebuilt.opened().unwrap()), epochs(&opened()));
    }
    for mirror in [asked_for_azure(), opened()] {
        let rebuilt = SwitchState::rebuilt(&mirror);
        assert_eq!((epochs(&rebuilt), rebuilt.phase()), (epochs(&mirror), &Phase::Steady));
    }
}

#[test]
fn an_older_state_is_put_right_above_all_revisions_and_nobody_writes_until_those_that_obeyed_it_have_heard() {
    let done = opened().activated(Outcome::Completed).unwrap();
    for older in [SwitchState::first("L", "kafka"), asked_for_azure(), preparing()] {
        let right = SwitchState::put_right(&done, &older);
        assert!(right.revision() > done.revision() && right.since() == right.revision());
        assert_eq!(right.phase(), &Phase::Hold { target: "azure".into(), restored: true }, "{older:?}");
        assert_eq!(epochs(&right.opened().unwrap()), [(2, "azure")], "it is no switch");
    }
    let same = SwitchState::put_right(&done, &opened());
    assert_eq!((same.phase(), epochs(&same)), (&Phase::Steady, epochs(&done)), "who obeyed it wrote to the right broker");
    assert_eq!(SwitchState::put_right(&preparing(), &asked_for_azure()), SwitchState::rebuilt(&preparing()));
}

#[test]
fn a_state_made_anew_while_pods_run_opens_no_epoch_of_its_own() {
    let anew = SwitchState::anew("M", "azure");
    assert!(matches!(anew.phase(), Phase::Hold { restored: true, .. }));
    assert_eq!(epochs(&anew.opened().unwrap()), [(1, "azure")]);
}

#[test]
fn a_stamp_is_parsed_as_it_is_printed_and_nothing_else_is_one() {
    let text = Stamp { lineage: "8f14e45f", epoch: 12 }.to_string();
    assert_eq!(text, "8f14e45f:12");
    assert_eq!(Stamp::parse(text.as_bytes()), Some(Stamp { lineage: "8f14e45f", epoch: 12 }));
    for other in ["", "12", ":12", "l:", "l:+1", "l:01", "l:1x", "l:99999999999999999999", "l:-1"] {
        assert_eq!(Stamp::parse(other.as_bytes()), None, "{other}");
    }
    assert_eq!(Stamp::parse(b"\xff:1"), None);
}
