//! Who may ask for a switch, and what becomes of what they ask for.

use crate::played::*;
use crate::switching::{settled_on, to};
use crate::world::*;
use anyhow::{Context, Result, ensure};
use crds::member::PipelineMember;
use crds::pipeline::Name;
use crds::switch::{Outcome, SwitchState};
use e2e::bed::{binaries, client_of, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::Duration;

impl Place {
    /// What it says, and whether it ended well.
    async fn plugin(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = tokio::process::Command::new(binaries::binary("kubectl-orderpipeline")?);
        command.args(arguments).args(["-n", &self.namespace]).env("KUBECONFIG", self.world.cluster.kubeconfig());
        let output = command.kill_on_drop(true).output().await?;
        let text = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        Ok((output.status.success(), text))
    }
}

#[tokio::test]
async fn a_person_asks_with_kubectl_and_the_document_rules_again_once_it_is_changed() -> Result<()> {
    let (place, played) = running("switch-asked", "1s").await?;
    let (done, said) = place.plugin(&["switch", "shop", "nowhere"]).await?;
    assert!(!done && said.contains("spec.backends has no nowhere; it has kafka, next"), "{said}");
    let (done, said) = place.plugin(&["switch", "shop", "next", "--wait"]).await?;
    assert!(done, "{said}");
    assert!(said.contains("has asked for next; that rules until spec.backend is no longer kafka"), "{said}");
    assert!(said.contains("from kafka to next: orders are written to next and read from it"), "{said}");
    let (_, said) = place.plugin(&["status", "shop"]).await?;
    assert!(
        said.contains("written to next, read from next") && said.contains("that rules until spec.backend is no longer kafka"),
        "{said}"
    );

    // What a pod was asked over its API.
    let request = json!({"backend": "kafka", "by": "web", "at": "2026-11-21T10:00:00Z", "revision": place.state().await?.revision()});
    let patch = Patch::Merge(json!({"spec": {"request": request}}));
    place.members().patch(&played[0].name, &PatchParams::default(), &patch).await?;
    let state = place.until_state("it is completed", settled_on("kafka")).await?;
    assert_eq!(&*state.asked().by, "web");

    // The document does not change when the same is applied again, and rules when it does.
    place.apply(&shop_with_two("1s"))?;
    place.patch("shop", &to("next"))?;
    let state = place.until_state("it is completed", settled_on("next")).await?;
    assert_eq!(&*state.asked().by, "spec.backend");
    Ok(())
}

#[tokio::test]
async fn a_document_that_names_one_broker_for_a_while_has_changed_its_mind() -> Result<()> {
    let (place, _played) = running("switch-detour", "1s").await?;
    let (done, said) = place.plugin(&["switch", "shop", "next", "--wait"]).await?;
    assert!(done, "{said}");
    place.until_switching("False", "Completed").await?;
    place.apply(
        &shop().replace("name: kafka, kafka: {bootstrapServers: 'kafka:9092'}", "name: next, kafka: {bootstrapServers: 'next:9092'}"),
    )?;
    let noted = place.until_state("the document is heard", |state| *state.asked().spec == *"next").await?;
    assert_eq!((&*noted.newest().backend, noted.newest().epoch), ("next", 2), "and nothing moves");
    place.apply(&shop_with_two("1s"))?;
    let rules = |state: &SwitchState| *state.asked().backend == *"kafka" && *state.asked().by == *"spec.backend";
    place.until_state("what was asked for before is over", rules).await?;
    Ok(())
}

#[tokio::test]
async fn a_broker_that_drains_cannot_be_removed_until_it_is_drained_or_given_up() -> Result<()> {
    let (place, played) = running("switch-abandoned", "1s").await?;
    played[2].change(|pod| pod.drains = false);
    place.patch("shop", &to("next"))?;
    let message = place.until_switching("True", "Draining").await?;
    assert_eq!(message, "orders are written to next; workers drain kafka");
    // Nobody drains without a worker.
    place.patch("shop", &json!({"spec": {"worker": {"replicas": 0}}}))?;
    let only_next = json!({"spec": {"backends": [{"name": "next", "kafka": {"bootstrapServers": "next:9092"}}]}});
    place.patch("shop", &only_next)?;
    let message = place.until_condition("shop", "Stalled", "True", "InvalidSpec").await?;
    assert!(message.contains("kafka is missing, and it still holds events that workers have not read"), "{message}");
    place.apply(&shop_with_two("1s").replace("  backend: kafka\n", "  backend: next\n"))?;
    place.until_condition("shop", "Stalled", "False", "NotStalled").await?;
    assert_eq!(place.get("Deployment", "shop-worker").await?["spec"]["replicas"], 1);

    let (done, said) = place.plugin(&["switch", "shop", "--abandon-drain", "--wait"]).await?;
    assert!(done && said.contains("workers leave kafka as it is"), "{said}");
    let state = place.state().await?;
    assert_eq!(state.last().map(|last| last.outcome), Some(Outcome::Abandoned));
    place.until_told("DrainAbandoned", 1, "before kafka was drained").await?;
    let (done, said) = place.plugin(&["switch", "shop", "--abandon-drain"]).await?;
    assert!(!done && said.contains("nothing drains"), "{said}");
    place.until_switching("False", "Abandoned").await?;
    place.patch("shop", &only_next)?;
    place.until_condition("shop", "Stalled", "False", "NotStalled").await?;
    Ok(())
}

#[tokio::test]
async fn a_second_broker_is_added_and_switched_to_in_one_go_once_every_pod_can_follow() -> Result<()> {
    let place = Place::new("switch-added").await?;
    place.apply(&shop())?;
    place.until_pods("shop-api", 2).await?;
    place.until_pods("shop-worker", 1).await?;
    place.pods_become_ready().await?;
    place.until_condition("shop", "Ready", "True", "Ready").await?;
    let mut old: Vec<String> = place.pods().list(&ListParams::default()).await?.iter().map(Pod::name_any).collect();
    old.sort();
    place.apply(&shop_with_two("1s").replace("  backend: kafka\n", "  backend: next\n"))?;
    let sentence = format!("made when there was one backend only: {}", old.join(", "));
    let waits = |pipeline: &serde_json::Value| condition(pipeline, "Switching")["message"].as_str().unwrap_or_default().contains(&sentence);
    let pipeline = place.until("OrderPipeline", "shop", "it says which pods it waits for", waits).await?;
    assert_eq!(condition(&pipeline, "Switching")["reason"], "Waiting");
    assert_eq!(pipeline["status"]["backend"]["writing"], "kafka", "it begins where it ran");

    // The rollout goes on as its new pods become ready.
    let mut played = Vec::new();
    let rolled = async {
        while played.len() < 3 {
            let known: Vec<&str> = played.iter().map(|pod: &Played| pod.name.as_str()).collect();
            let pods = place.pods().list(&ListParams::default()).await?.items;
            let new = pods.into_iter().find(|pod| !old.contains(&pod.name_any()) && !known.contains(&pod.name_any().as_str()));
            match new {
                Some(pod) => played.push(place.play_one(&pod).await?),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(Duration::from_secs(60), rolled).await.context("the pods are not rolled")??;
    let state = place.until_state("it is completed", settled_on("next")).await?;
    assert_eq!((state.newest().epoch, state.last().map(|last| last.failures)), (2, Some(0)));
    Ok(())
}

/// To pods of before, the name of the target is still the broker that it was.
#[tokio::test]
async fn a_target_that_was_given_another_address_is_switched_to_when_all_pods_know_it() -> Result<()> {
    let (place, old) = running("switch-moved", "1s").await?;
    place.apply(&shop_with_two("1s").replace("next:9092", "production:9092").replace("  backend: kafka\n", "  backend: next\n"))?;
    let sentence = "waits until the pods are gone that were made when spec.backends had other addresses";
    let waits = |pipeline: &serde_json::Value| {
        let message = condition(pipeline, "Switching")["message"].as_str().unwrap_or_default();
        message.contains(sentence) && old.iter().all(|pod| message.contains(&pod.name))
    };
    place.until("OrderPipeline", "shop", "it says which pods it waits for", waits).await?;
    assert_eq!(place.state().await?.newest().epoch, 1);
    let roll = async {
        let mut new = Vec::new();
        while new.len() < 3 {
            let known: Vec<&str> = old.iter().chain(&new).map(|pod: &Played| pod.name.as_str()).collect();
            let pods = place.pods().list(&ListParams::default()).await?.items;
            match pods.into_iter().find(|pod| !known.contains(&pod.name_any().as_str())) {
                Some(pod) => new.push(place.play_one(&pod).await?),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Ok::<_, anyhow::Error>(new)
    };
    let _new = tokio::time::timeout(Duration::from_secs(60), roll).await.context("the pods are not rolled")??;
    let state = place.until_state("it is completed", settled_on("next")).await?;
    assert_eq!((state.newest().epoch, state.last().map(|last| last.failures)), (2, Some(0)));
    Ok(())
}

#[tokio::test]
async fn a_pod_may_write_only_its_own_member() -> Result<()> {
    let place = Place::new("switch-members").await?;
    place.apply(&shop_with_two("1s"))?;
    place.until_pods("shop-api", 2).await?;
    let mut pods: Vec<Pod> = place.pods().list(&ListParams::default().labels("app.kubernetes.io/component=api")).await?.items;
    pods.sort_by_key(Pod::name_any);
    ensure!(pods.len() == 2);
    let (mine, other) = (&pods[0], &pods[1]);
    let bound =
        ["create", "token", "shop-runtime", "-n", &place.namespace, "--bound-object-kind=Pod", "--bound-object-name", &mine.name_any()];
    let as_pod: Api<PipelineMember> =
        Api::namespaced(client_of(&place.world.cluster.kubeconfig_with("pod-of-members", &bound)?).await?, &place.namespace);
    let unbound = ["create", "token", "shop-runtime", "-n", &place.namespace];
    let as_account: Api<PipelineMember> =
        Api::namespaced(client_of(&place.world.cluster.kubeconfig_with("account-of-members", &unbound)?).await?, &place.namespace);
    let member = |pod: &Pod, uid: Option<String>, pipeline: &str| -> Result<PipelineMember> {
        Ok(serde_json::from_value(json!({
            "apiVersion": "orderpipeline.dev/v1alpha1", "kind": "PipelineMember",
            "metadata": {"name": pod.name_any(), "labels": {"orderpipeline.dev/pipeline": pipeline}},
            "spec": {"pipeline": pipeline, "role": "Api", "pod": {"name": pod.name_any(), "uid": uid, "containerStartedAt": "2026-11-21T10:00:00Z"}},
        }))?)
    };
    let post = PostParams::default();
    // A policy takes a moment until it is in force: from then on it is.
    eventually("the policy is in force", Duration::from_secs(60), async || {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        ensure!(as_pod.create(&dry, &member(other, other.uid(), "shop")?).await.is_err(), "not refused");
        Ok(())
    })
    .await?;
    let refused =
        |outcome: kube::Result<PipelineMember>| -> Result<String> { Ok(outcome.err().context("it was not refused")?.to_string()) };
    let said = refused(as_pod.create(&post, &member(other, other.uid(), "shop")?).await)?;
    assert!(said.contains("only the PipelineMember of its own name") && said.contains(&mine.name_any()), "{said}");
    let said = refused(as_pod.create(&post, &member(mine, other.uid(), "shop")?).await)?;
    assert!(said.contains("names the pod that writes it"), "{said}");
    let said = refused(as_pod.create(&post, &member(mine, mine.uid(), "another")?).await)?;
    assert!(said.contains("of its pod's own pipeline"), "{said}");
    let said = refused(as_account.create(&post, &member(mine, mine.uid(), "shop")?).await)?;
    assert!(said.contains("bound to no pod"), "{said}");

    let mut answer = as_pod.create(&post, &member(mine, mine.uid(), "shop")?).await?;
    answer.spec.connected.push(Name("kafka".into()));
    as_pod.replace(&mine.name_any(), &post, &answer).await?;
    let foreign = place.members().create(&post, &member(other, other.uid(), "shop")?).await?;
    let said = refused(as_pod.replace(&other.name_any(), &post, &foreign).await)?;
    assert!(said.contains("only the PipelineMember of its own name"), "{said}");
    assert!(as_pod.delete(&other.name_any(), &Default::default()).await.is_err(), "another pod's member");
    as_pod.delete(&mine.name_any(), &Default::default()).await?;
    Ok(())
}
