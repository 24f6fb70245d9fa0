//! What changes when something changes, and that nothing does when nothing has.

use crate::world::*;
use anyhow::Result;
use serde_json::json;

/// A pipeline whose pods are ready.
async fn running(namespace: &str) -> Result<Place> {
    let place = Place::new(namespace).await?;
    place.apply(&shop())?;
    place.until_pods("shop-api", 2).await?;
    place.until_pods("shop-worker", 1).await?;
    place.pods_become_ready().await?;
    place.until_condition("shop", "Ready", "True", "Ready").await?;
    Ok(place)
}

#[tokio::test]
async fn a_reconcile_without_a_change_writes_nothing() -> Result<()> {
    let place = running("unchanged").await?;
    let (versions, writes) = (place.versions().await?, place.writes()?);
    // a new operator reconciles everything once; a pipeline made afterwards shows that it is through with it
    place.world.restart_operator().await?;
    let later = Place::new("unchanged-later").await?;
    later.apply(&shop())?;
    later.until_condition("shop", "Reconciling", "True", "WaitingForPods").await?;
    assert_eq!(place.versions().await?, versions);
    assert_eq!(place.writes()?, writes);

    // an annotation wakes a reconcile; again the other pipeline shows that it is over
    place.kubectl(&["annotate", "op", "shop", "touched=yes"])?;
    later.patch("shop", &json!({"spec": {"api": {"replicas": 1}}}))?;
    later.until("Deployment", "shop-api", "it follows", |d| d["spec"]["replicas"] == 1).await?;
    assert_eq!(place.writes()?, writes);
    let others = |all: Vec<(String, String)>| all.into_iter().filter(|(name, _)| !name.starts_with("OrderPipeline")).collect::<Vec<_>>();
    assert_eq!(others(place.versions().await?), others(versions), "only the annotated pipeline itself has changed");
    Ok(())
}

#[tokio::test]
async fn drift_is_put_right() -> Result<()> {
    let place = running("drift").await?;
    place.kubectl(&["scale", "deployment/shop-api", "--replicas=7"])?;
    place.until("Deployment", "shop-api", "its replicas are put right", |d| d["spec"]["replicas"] == 2).await?;
    place.kubectl(&["delete", "configmap", "shop-config"])?;
    place.until("ConfigMap", "shop-config", "it is made again", |c| !c.is_null()).await?;
    place.kubectl(&["label", "service", "shop-api", "app.kubernetes.io/managed-by-"])?;
    place
        .until("Service", "shop-api", "its label is back", |s| {
            s["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "orderpipeline-operator"
        })
        .await?;
    let rule = r#"[{"op": "add", "path": "/rules/-", "value": {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}}]"#;
    place.kubectl(&["patch", "role", "shop-runtime", "--type=json", "-p", rule])?;
    place
        .until("Role", "shop-runtime", "the foreign rule is gone", |r| r["rules"].as_array().is_some_and(|rules| rules.len() == 2))
        .await?;
    Ok(())
}

#[tokio::test]
async fn events_are_hot_and_the_image_rolls_the_pods() -> Result<()> {
    let place = running("rolling").await?;
    let before = place.get("Deployment", "shop-worker").await?;
    let hot = json!({"spec": {"events": [{"name": "OrderCreated", "effect": "Create", "set": {"status": "'NEW'"}}]}});
    place.patch("shop", &hot)?;
    place
        .until("ConfigMap", "shop-config", "it has the new event", |c| {
            c["data"]["config.json"].as_str().is_some_and(|text| text.contains("'NEW'"))
        })
        .await?;
    place.until_condition("shop", "Ready", "True", "Ready").await?;
    assert_eq!(place.get("Deployment", "shop-worker").await?["metadata"]["generation"], before["metadata"]["generation"]);

    place.patch("shop", &json!({"spec": {"image": "registry.test/mine:2"}}))?;
    place.until_condition("shop", "Reconciling", "True", "WaitingForPods").await?;
    let after = place.get("Deployment", "shop-worker").await?;
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0]["image"], "registry.test/mine:2");
    Ok(())
}

#[tokio::test]
async fn an_invalid_change_is_stalled_in_the_words_of_check_while_the_last_good_one_runs_and_heals() -> Result<()> {
    let place = running("invalid").await?;
    let before: Vec<_> = place.versions().await?.into_iter().filter(|(name, _)| !name.starts_with("OrderPipeline")).collect();
    // the API server cannot know this one: an expression that does not parse
    place.patch("shop", &json!({"spec": {"events": [{"name": "OrderCreated", "effect": "Create", "key": "data.("}]}}))?;
    let message = place.until_condition("shop", "Stalled", "True", "InvalidSpec").await?;
    let document = place.kubectl(&["get", "op", "shop", "-o", "yaml"])?;
    let mistakes = crds::document::read(&document).expect_err("it is invalid");
    // The operator was given no text: it knows no lines.
    let said: Vec<String> = mistakes.iter().map(|mistake| format!("{}: {}", mistake.place, mistake.message)).collect();
    assert_eq!(message, said.join("\n"), "the operator says what check says");
    assert!(message.contains("spec.events[0].key"), "{message}");
    let after: Vec<_> = place.versions().await?.into_iter().filter(|(name, _)| !name.starts_with("OrderPipeline")).collect();
    assert_eq!(after, before, "what runs is not touched");

    place.patch("shop", &json!({"spec": {"events": [{"name": "OrderCreated", "effect": "Create"}]}}))?;
    place.until_condition("shop", "Ready", "True", "Ready").await?;
    Ok(())
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_taken() -> Result<()> {
    let place = Place::new("foreign").await?;
    place.kubectl(&["create", "configmap", "shop-config", "--from-literal=mine=yes"])?;
    place.apply(&shop())?;
    let sentence = place.until_condition("shop", "Stalled", "True", "NameTaken").await?;
    assert!(sentence.contains("ConfigMap shop-config"), "{sentence}");
    assert_eq!(place.get("ConfigMap", "shop-config").await?["data"], json!({"mine": "yes"}));
    place.kubectl(&["delete", "configmap", "shop-config"])?;
    place.until_condition("shop", "Reconciling", "True", "WaitingForPods").await?;
    Ok(())
}

#[tokio::test]
async fn the_broker_of_a_running_pipeline_cannot_be_taken_out_of_its_document() -> Result<()> {
    let place = running("moving").await?;
    let backends = json!([{"name": "next", "kafka": {"bootstrapServers": "next:9092"}}]);
    place.patch("shop", &json!({"spec": {"backends": backends}}))?;
    let message = place.until_condition("shop", "Stalled", "True", "InvalidSpec").await?;
    assert!(message.contains("kafka is missing, and it is the one that orders are written to"), "{message}");
    place.patch("shop", &json!({"spec": {"backends": [{"name": "kafka", "kafka": {"bootstrapServers": "kafka:9092"}}]}}))?;
    place.until_condition("shop", "Stalled", "False", "NotStalled").await?;
    Ok(())
}

#[tokio::test]
async fn another_broker_under_the_name_of_the_one_in_use_is_refused() -> Result<()> {
    let place = running("identity").await?;
    let servers = |servers: &str| json!({"spec": {"backends": [{"name": "kafka", "kafka": {"bootstrapServers": servers}}]}});
    place.patch("shop", &servers("kafka2:9092"))?;
    let message = place.until_condition("shop", "Stalled", "True", "IdentityChanged").await?;
    assert!(message.contains("spec.backends[0].kafka.bootstrapServers") && message.contains("kafka:9092"), "{message}");
    let config = place.get("ConfigMap", "shop-config").await?;
    assert!(!config["data"]["config.json"].as_str().unwrap_or_default().contains("kafka2"), "the pods stay where they are");
    place.patch("shop", &servers("kafka2:9092,kafka:9092"))?;
    place.until_condition("shop", "Reconciling", "True", "WaitingForPods").await?;
    Ok(())
}

#[tokio::test]
async fn what_was_left_behind_without_an_owner_is_taken_up_again() -> Result<()> {
    let place = running("orphans").await?;
    let before = place.get("Deployment", "shop-worker").await?;
    place.kubectl(&["delete", "op", "shop", "--cascade=orphan"])?;
    place.until("Deployment", "shop-worker", "nobody owns it", |d| d["metadata"]["ownerReferences"].is_null()).await?;
    place.apply(&shop())?;
    place.until_condition("shop", "Ready", "True", "Ready").await?;
    let after = place.get("Deployment", "shop-worker").await?;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "the pods ran on");
    assert_eq!(after["metadata"]["ownerReferences"][0]["name"], "shop");
    Ok(())
}

#[tokio::test]
async fn what_the_api_server_refuses_is_stalled_in_its_words_and_keeps_nothing_else_back() -> Result<()> {
    let place = Place::new("refused").await?;
    let template = |name: &str| format!("api: {{replicas: 2, template: {{resources: {{requests: {{{name}: 1}}}}}}}}");
    place.apply(&shop().replace("api: {replicas: 2}", &template("memry")))?;
    let message = place.until_condition("shop", "Stalled", "True", "ObjectRefused").await?;
    assert!(message.contains("Deployment refused/shop-api") && message.contains("memry"), "{message}");
    place.until_pods("shop-worker", 1).await?;
    place.apply(&shop().replace("api: {replicas: 2}", &template("cpu")))?;
    place.until_pods("shop-api", 2).await?;
    place.until_condition("shop", "Stalled", "False", "NotStalled").await?;
    Ok(())
}

#[tokio::test]
async fn an_operator_that_was_killed_is_followed_by_the_next_one() -> Result<()> {
    let place = running("killed").await?;
    place.world.kill_operator().await?;
    place.patch("shop", &json!({"spec": {"api": {"replicas": 4}}}))?;
    place.until("Deployment", "shop-api", "the next operator does it", |d| d["spec"]["replicas"] == 4).await?;
    Ok(())
}
