//! A running pipeline is moved from one broker to another.

use crate::played::*;
use crate::world::*;
use anyhow::{Result, ensure};
use crds::switch::{Outcome, Phase, SwitchState};
use e2e::bed::eventually;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use std::time::{Duration, Instant};

pub fn to(backend: &str) -> serde_json::Value {
    json!({"spec": {"backend": backend}})
}

pub fn settled_on(backend: &'static str) -> impl Fn(&SwitchState) -> bool {
    move |state| *state.phase() == Phase::Steady && !state.drains() && *state.newest().backend == *backend
}

impl Place {
    pub async fn until_switching(&self, value: &str, reason: &str) -> Result<String> {
        self.until_condition("shop", "Switching", value, reason).await
    }

    /// The notes of the events of this reason, when there are so many with these words. The operator tells what has happened once nobody
    /// is kept waiting by it, and so later than the state and its conditions can be seen.
    pub async fn until_told(&self, reason: &str, times: usize, words: &str) -> Result<Vec<String>> {
        let told = || async {
            let notes = self.kubectl(&[
                "get",
                "events.events.k8s.io",
                "-o",
                "jsonpath={range .items[*]}{.note}{\"\\n\"}{end}",
                &format!("--field-selector=reason={reason}"),
            ])?;
            ensure!(notes.lines().filter(|note| note.contains(words)).count() >= times, "{notes:?}");
            Ok(notes.lines().map(str::to_owned).collect())
        };
        eventually(reason, WITHIN, told).await
    }
}

#[tokio::test]
async fn a_patch_moves_a_pipeline_and_back_and_between_switches_nothing_is_written() -> Result<()> {
    let (place, played) = running("switching", "1s").await?;
    let _steady = place.world.steady().await;
    assert_eq!(place.until_switching("False", "NoSwitch").await?, "orders are written to kafka and read from it");
    let deployment = place.get("Deployment", "shop-api").await?;
    for (count, target) in ["next", "kafka", "next"].into_iter().enumerate() {
        let begun = Instant::now();
        place.patch("shop", &to(target))?;
        let patched = begun.elapsed();
        place.until_state("it is open", |state| *state.newest().backend == *target).await?;
        let opened = begun.elapsed();
        place.until_state("it is completed", settled_on(target)).await?;
        let completed = begun.elapsed();
        let pauses: Vec<Duration> = played.iter().filter_map(|pod| pod.pauses().last().copied()).collect();
        println!("to {target}: patched {patched:?}, open {opened:?}, completed {completed:?}, pods held for {pauses:?}");
        let message = place.until_switching("False", "Completed").await?;
        assert!(message.contains(&format!("orders are written to {target} and read from it")), "{message}");
        assert!(played.iter().all(|pod| pod.pauses().len() == count + 1), "each pod has held once a switch");
    }
    let pipeline = place.get("OrderPipeline", "shop").await?;
    let backend = &pipeline["status"]["backend"];
    assert_eq!((&backend["active"], &backend["writing"], &backend["epoch"]), (&json!("next"), &json!("next"), &json!(4)));
    assert_eq!((&backend["phase"], &backend["lastSwitch"]["outcome"]), (&json!("Steady"), &json!("Completed")));
    assert!(backend["lastSwitch"]["startedAt"].is_string() && backend["lastSwitch"]["drainMs"].is_number(), "{backend}");
    assert_eq!(backend["requested"]["rules"], "spec.backend asks for next");
    assert_eq!(condition(&pipeline, "Ready")["status"], "True");
    let after = place.get("Deployment", "shop-api").await?;
    assert_eq!(after["metadata"]["generation"], deployment["metadata"]["generation"], "no pod is rolled");
    for reason in ["SwitchStarted", "SwitchOpened", "SwitchCompleted"] {
        let told = place.until_told(reason, 3, "").await?;
        assert_eq!(told.len(), 3, "{reason}: {told:?}");
    }

    let (versions, writes) = (place.versions().await?, place.writes()?);
    // Another pipeline's whole switch shows that time has passed for this one.
    let (later, _pods) = running("switching-later", "1s").await?;
    later.patch("shop", &to("next"))?;
    later.until_switching("False", "Completed").await?;
    assert_eq!(place.versions().await?, versions);
    assert_eq!(place.writes()?, writes);
    Ok(())
}

#[tokio::test]
async fn a_target_that_a_pod_cannot_use_is_refused_and_nobody_holds() -> Result<()> {
    let (place, played) = running("switch-refused", "1s").await?;
    played[1].change(|pod| pod.refuses = Some("next has no topic orders".into()));
    place.patch("shop", &to("next"))?;
    let message = place.until_switching("False", "Refused").await?;
    assert!(message.contains(&format!("{} cannot use next: next has no topic orders", played[1].name)), "{message}");
    let state = place.state().await?;
    assert_eq!((&*state.newest().backend, state.newest().epoch), ("kafka", 1));
    assert!(played.iter().all(|pod| pod.pauses().is_empty()), "no order waited");
    place.until_told("SwitchRefused", 1, "orders are written to kafka as before").await?;
    // Who asks for kafka again takes the request back; asked anew, nothing waits for the pause to be over.
    place.patch("shop", &to("kafka"))?;
    place.until_state("it is taken back", |state| *state.asked().backend == *"kafka").await?;
    played[1].change(|pod| pod.refuses = None);
    place.patch("shop", &to("next"))?;
    place.until_state("it is completed", settled_on("next")).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_goes_on_writing_is_named_and_the_switch_taken_back_in_time() -> Result<()> {
    let (place, played) = running("switch-late", "1s").await?;
    let steady = place.world.steady().await;
    played[0].change(|pod| pod.settles = false);
    place.patch("shop", &to("next"))?;
    place.until_state("it is held", |state| matches!(state.phase(), Phase::Hold { .. })).await?;
    let held = Instant::now();
    place.until_state("it is taken back", |state| state.last().is_some_and(|last| last.outcome == Outcome::Aborted)).await?;
    let back = held.elapsed();
    drop(steady);
    println!("taken back after {back:?}");
    assert!(back < Duration::from_secs(2), "{back:?}");
    let message = place.until_switching("False", "Aborted").await?;
    assert!(message.contains(&format!("{} did not stop writing within the deadline", played[0].name)), "{message}");
    place.until_told("SwitchAborted", 1, &played[0].name).await?;
    // The next attempt comes by itself, after a pause.
    played[0].change(|pod| pod.settles = true);
    place.until_state("it is completed", settled_on("next")).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_has_ended_is_not_waited_for() -> Result<()> {
    let (place, played) = running("switch-excused", "10s").await?;
    // One has failed and left its member behind, and one is deleted while all wait for it.
    played[0].falls_silent();
    let failed = json!({"status": {"phase": "Failed"}});
    place.pods().patch_status(&played[0].name, &PatchParams::default(), &Patch::Merge(&failed)).await?;
    played[1].change(|pod| pod.settles = false);
    place.patch("shop", &to("next"))?;
    place.until_state("it is held", |state| matches!(state.phase(), Phase::Hold { .. })).await?;
    let message = place.until_switching("True", "Hold").await?;
    assert!(message.contains(&played[1].name) && !message.contains(&played[0].name), "{message}");
    played[1].falls_silent();
    place.pods().delete(&played[1].name, &DeleteParams::default().grace_period(0)).await?;
    place.until_state("it is open", |state| *state.newest().backend == *"next").await?;
    assert_eq!(place.state().await?.last().map(|last| last.failures), Some(0), "at the first attempt");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_was_robbed_of_its_labels_goes_on_writing_and_is_waited_for() -> Result<()> {
    let (place, played) = running("switch-robbed", "30s").await?;
    played[1].change(|pod| pod.settles = false);
    let labels = ["name-", "instance-", "component-", "managed-by-"].map(|label| format!("app.kubernetes.io/{label}"));
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    place.kubectl(&[&["label", "pod", played[1].name.as_str()], labels.as_slice()].concat())?;
    place.patch("shop", &to("next"))?;
    let message = place.until_switching("True", "Hold").await?;
    assert!(message.contains(&format!("{} did not stop writing", played[1].name)), "{message}");
    played[1].change(|pod| pod.settles = true);
    place.until_state("it is completed", settled_on("next")).await?;
    Ok(())
}
