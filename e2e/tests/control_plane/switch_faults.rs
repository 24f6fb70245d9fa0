//! Switches whose operator dies, has a rival, or finds that somebody has laid hands on the state.

use crate::played::*;
use crate::switching::{settled_on, to};
use crate::world::*;
use anyhow::{Context, Result, ensure};
use crds::switch::names::STATE_FILE;
use crds::switch::{Phase, SwitchState};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams};
use kube::runtime::{WatchStreamExt, watcher};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn an_operator_that_is_killed_at_any_step_is_followed_by_one_that_goes_on() -> Result<()> {
    let (place, played) = running("switch-killed", "30s").await?;
    let lineage = place.state().await?.lineage().clone();
    // While pods connect to the target.
    played[0].change(|pod| pod.prepares = false);
    place.patch("shop", &to("next"))?;
    place.until_state("it is prepared", |state| matches!(state.phase(), Phase::Prepare { .. })).await?;
    place.world.kill_operator().await?;
    played[0].change(|pod| pod.prepares = true);
    place.until_state("the next one completes it", settled_on("next")).await?;
    // While nobody writes.
    played[1].change(|pod| pod.settles = false);
    place.patch("shop", &to("kafka"))?;
    place.until_state("it is held", |state| matches!(state.phase(), Phase::Hold { .. })).await?;
    place.world.kill_operator().await?;
    played[1].change(|pod| pod.settles = true);
    place.until_state("the next one completes it", settled_on("kafka")).await?;
    // While the old broker drains.
    played[2].change(|pod| pod.drains = false);
    place.patch("shop", &to("next"))?;
    place.until_state("it drains", |state| state.drains()).await?;
    place.world.kill_operator().await?;
    played[2].change(|pod| pod.drains = true);
    let state = place.until_state("the next one completes it", settled_on("next")).await?;
    assert_eq!(state.newest().epoch, 4, "each switch went through at the first attempt");
    assert!(state.same_lineage(&lineage));
    place.until_switching("False", "Completed").await?;
    Ok(())
}

/// What belongs to the pipeline may take long to be looked at; who waits for a Hold to end must not wait for that too.
#[tokio::test]
async fn a_new_operator_ends_a_hold_before_all_else() -> Result<()> {
    let (place, played) = running("switch-taken", "30s").await?;
    // No Service can be made: the API server asks somebody who never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    place.world.cluster.apply(&format!(
        "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {{name: switch-taken}}, webhooks: [{{\
         name: silent.orderpipeline.dev, clientConfig: {{url: 'https://{}'}}, timeoutSeconds: 30, failurePolicy: Ignore, sideEffects: None, \
         admissionReviewVersions: [v1], namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: switch-taken}}}}, \
         rules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [services]}}]}}]}}",
        silent.local_addr()?
    ))?;
    played[0].change(|pod| pod.settles = false);
    place.patch("shop", &to("next"))?;
    place.until_state("it is held", |state| matches!(state.phase(), Phase::Hold { .. })).await?;
    place.kubectl(&["delete", "service", "shop-api"])?;
    place.world.kill_operator().await?;
    // The one before has asked too, and asks no more.
    let asking = loop {
        let (asking, _) = silent.accept().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if goes_on(&asking) {
            break asking;
        }
    };
    played[0].change(|pod| pod.settles = true);
    place.until_state("it is open", |state| *state.newest().backend == *"next").await?;
    assert!(goes_on(&asking), "the Hold has ended only when the operator had given up making the Service");
    place.kubectl(&["delete", "validatingwebhookconfiguration", "switch-taken"])?;
    place.until_state("it is completed", settled_on("next")).await?;
    Ok(())
}

/// Whether the other side still waits for an answer.
fn goes_on(connection: &TcpStream) -> bool {
    let mut hello = [0; 4096];
    loop {
        match connection.try_read(&mut hello) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn an_operator_that_is_told_to_stop_lets_nobody_wait() -> Result<()> {
    let (place, played) = running("switch-stopped", "30s").await?;
    played[0].change(|pod| pod.settles = false);
    place.patch("shop", &to("next"))?;
    place.until_state("it is held", |state| matches!(state.phase(), Phase::Hold { .. })).await?;
    place.world.restart_operator().await?;
    let state = place.until_state("it is taken back", |state| state.last().is_some()).await?;
    let last = state.last().context("an attempt")?;
    assert_eq!((last.message.as_str(), last.failures), ("who led it was told to stop; the next one tries again", 0));
    played[0].change(|pod| pod.settles = true);
    place.until_state("the next one completes it", settled_on("next")).await?;
    Ok(())
}

/// Every state that is ever seen, in order.
fn record(place: &Place) -> Arc<Mutex<Vec<SwitchState>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let states: Api<ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    let recorded = seen.clone();
    tokio::spawn(async move {
        let config = watcher::Config::default().fields("metadata.name=shop-switch");
        let mut events = std::pin::pin!(watcher(states, config).default_backoff().applied_objects());
        while let Some(event) = events.next().await {
            let text = event.ok().and_then(|map| map.data?.remove(STATE_FILE)).unwrap_or_default();
            if let Ok(state) = SwitchState::parse(&text) {
                recorded.lock().unwrap().push(state);
            }
        }
    });
    seen
}

#[tokio::test]
async fn two_operators_at_once_do_no_harm() -> Result<()> {
    let (place, played) = running("switch-rivals", "5s").await?;
    let seen = record(&place);
    place.kubectl(&["create", "role", "leases", "--verb=get,create,update", "--resource=leases.coordination.k8s.io"])?;
    let operator = format!("--serviceaccount={}", OPERATOR.trim_start_matches("system:serviceaccount:"));
    place.kubectl(&["create", "rolebinding", "leases", "--role=leases", &operator])?;
    let _rival = place.world.another_operator(&place.namespace).await?;
    place.until("Lease", "orderpipeline-operator", "the rival leads", |lease| lease["spec"]["holderIdentity"].is_string()).await?;
    let mut epoch = 1;
    for target in ["next", "kafka", "next", "kafka", "next", "kafka"] {
        place.patch("shop", &to(target))?;
        let state = place.until_state("it is completed", settled_on(target)).await?;
        epoch += 1;
        ensure!(state.newest().epoch == epoch, "one epoch a switch: {state:?}");
    }
    place.until_switching("False", "Completed").await?;
    let seen = seen.lock().unwrap().clone();
    let mut before: Option<SwitchState> = None;
    for state in seen {
        if let Some(before) = before.filter(|before| before.revision() != state.revision()) {
            assert_eq!(state.revision(), before.revision() + 1, "{before:?} {state:?}");
            assert!(state.newest().epoch <= before.newest().epoch + 1);
            assert!(
                state.newest().epoch == before.newest().epoch || matches!(before.phase(), Phase::Hold { .. }),
                "opened from a Hold only"
            );
        }
        before = Some(state);
    }
    assert!(played.iter().all(|pod| pod.pauses().len() == 6), "each pod has held once a switch");
    Ok(())
}

#[tokio::test]
async fn a_state_that_was_deleted_is_rebuilt_and_one_of_another_version_is_left_alone() -> Result<()> {
    let (place, _played) = running("switch-rebuilt", "1s").await?;
    place.patch("shop", &to("next"))?;
    place.until_state("it is completed", settled_on("next")).await?;
    place.until_switching("False", "Completed").await?;
    let before = place.state().await?;
    place.kubectl(&["delete", "configmap", "shop-switch"])?;
    let after = place.until_state("it is rebuilt", |state| state.revision() > before.revision()).await?;
    assert_eq!((after.lineage(), after.epochs()), (before.lineage(), before.epochs()));
    place.patch("shop", &to("kafka"))?;
    place.until_state("it goes on from there", settled_on("kafka")).await?;
    place.until_told("SwitchStateRebuilt", 1, "was deleted").await?;
    place.until_switching("False", "Completed").await?;

    let mut newer = serde_json::to_value(place.state().await?)?;
    newer["version"] = 9.into();
    let patch = serde_json::json!({"data": {STATE_FILE: newer.to_string()}});
    place.kubectl(&["patch", "configmap", "shop-switch", "--type=merge", "-p", &patch.to_string()])?;
    let message = place.until_switching("Unknown", "UnknownVersion").await?;
    assert!(message.contains("is of version 9"), "{message}");
    place.patch("shop", &to("next"))?;
    place.until_condition("shop", "Reconciling", "False", "Settled").await?;
    let map = place.get("ConfigMap", "shop-switch").await?;
    assert_eq!(map["data"][STATE_FILE], newer.to_string(), "nothing is done with it");
    place.kubectl(&["delete", "configmap", "shop-switch"])?;
    place.until_state("it goes on from what status knows", settled_on("next")).await?;
    Ok(())
}

#[tokio::test]
async fn an_older_state_that_is_put_back_is_put_right_whether_the_operator_saw_it_or_not() -> Result<()> {
    let (place, played) = running("switch-put-back", "1s").await?;
    let old = place.get("ConfigMap", "shop-switch").await?["data"][STATE_FILE].clone();
    let put_back = || {
        let patch = serde_json::json!({"data": {STATE_FILE: old}});
        place.kubectl(&["patch", "configmap", "shop-switch", "--type=merge", "-p", &patch.to_string()])
    };
    place.patch("shop", &to("next"))?;
    place.until_state("it is completed", settled_on("next")).await?;
    place.until_switching("False", "Completed").await?;
    let before = place.state().await?;
    put_back()?;
    let right = |state: &SwitchState| state.revision() > before.revision() && *state.phase() == Phase::Steady;
    let after = place.until_state("it is put right", right).await?;
    assert_eq!((after.lineage(), after.epochs()), (before.lineage(), before.epochs()));
    place.until_switching("False", "Completed").await?;
    place.until_told("SwitchStateRebuilt", 1, "replaced by an older one (revision 1, after").await?;
    assert!(played.iter().all(|pod| pod.pauses().len() == 2), "nobody wrote until all had heard of it");

    // While there is none, and one in which writes are held: of that the next one must not go on.
    let seen = record(&place);
    place.patch("shop", &to("kafka"))?;
    place.until_state("it goes on from there", settled_on("kafka")).await?;
    place.until_switching("False", "Completed").await?;
    let before = place.state().await?;
    let held = seen.lock().unwrap().iter().find(|state| matches!(state.phase(), Phase::Hold { .. })).cloned().context("a Hold")?;
    let patch = serde_json::json!({"data": {STATE_FILE: serde_json::to_string(&held)?}});
    place.world.kill_operator().await?;
    place.kubectl(&["patch", "configmap", "shop-switch", "--type=merge", "-p", &patch.to_string()])?;
    let right = |state: &SwitchState| state.revision() > before.revision() && *state.phase() == Phase::Steady;
    let after = place.until_state("it is put right", right).await?;
    assert_eq!((after.lineage(), after.epochs()), (before.lineage(), before.epochs()));
    Ok(())
}

/// Were what is rebuilt once more not newer than all that pods have seen, nobody would obey it, and the switch would never end.
#[tokio::test]
async fn a_state_that_is_deleted_again_and_again_is_obeyed_every_time_and_the_switch_ends() -> Result<()> {
    let (place, played) = running("switch-deleted", "30s").await?;
    let seen = record(&place);
    let states: Api<ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    let delete = async || states.delete("shop-switch", &DeleteParams::default()).await;
    for (epoch, target) in [(2, "next"), (3, "kafka"), (4, "next")] {
        played[0].change(|pod| pod.settles = false);
        place.patch("shop", &to(target))?;
        let held = place.until_state("it is held", |state| matches!(state.phase(), Phase::Hold { .. })).await?;
        delete().await?;
        place.until_state("it is rebuilt", |state| state.revision() > held.revision()).await?;
        played[0].change(|pod| pod.settles = true);
        delete().await?;
        place.until_state("it is opened", |state| state.newest().epoch == epoch).await?;
        delete().await?;
        let state = place.until_state("it is completed", settled_on(target)).await?;
        assert_eq!(state.newest().epoch, epoch, "one epoch a switch");
    }
    // One that is rebuilt before the last one is mirrored is the same again, and no other event. At each switch there is another.
    place.until_told("SwitchStateRebuilt", 3, "was deleted").await?;
    let seen = seen.lock().unwrap().clone();
    for (before, after) in seen.iter().zip(seen.iter().skip(1)) {
        assert!(after.revision() > before.revision() || after == before, "it would be obeyed by nobody: {after:?} after {before:?}");
    }
    Ok(())
}
