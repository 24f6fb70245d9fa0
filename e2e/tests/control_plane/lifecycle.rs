//! From a document to running pods, and back to nothing.

use crate::world::*;
use anyhow::Result;
use serde_json::json;

#[tokio::test]
async fn a_pipeline_becomes_ready_when_its_pods_are() -> Result<()> {
    let place = Place::new("ready").await?;
    place.apply(&shop())?;
    let waiting = place.until_condition("shop", "Reconciling", "True", "WaitingForPods").await?;
    assert!(waiting.contains("api: 0 of 2 pods ready"), "{waiting}");
    place.until_pods("shop-api", 2).await?;
    place.until_pods("shop-worker", 1).await?;
    place.pods_become_ready().await?;
    place.until_condition("shop", "Ready", "True", "Ready").await?;
    let pipeline = place.get("OrderPipeline", "shop").await?;
    assert_eq!(condition(&pipeline, "Reconciling")["status"], "False");
    assert_eq!(condition(&pipeline, "Stalled")["status"], "False");
    assert_eq!(condition(&pipeline, "EffectsDurable")["reason"], "MemoryStore");
    assert_eq!(pipeline["status"]["backend"]["active"], "kafka");
    assert_eq!(pipeline["status"]["api"]["readyReplicas"], 2);
    assert!(place.kubectl(&["get", "events", "--field-selector=reason=Ready"])?.contains("everything that the document asks for runs"));
    Ok(())
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_arrival_is_noticed() -> Result<()> {
    let place = Place::new("secrets").await?;
    place.apply(&shop().replace("  worker: {}", "  worker: {}\n  store: {postgres: {urlSecretRef: {name: db, key: url}}}"))?;
    let sentence = place.until_condition("shop", "Ready", "False", "SecretMissing").await?;
    assert!(sentence.contains("Secret db is missing: kubectl create secret generic db -n secrets --from-literal=url=..."), "{sentence}");
    place.get("Deployment", "shop-worker").await?;
    place.kubectl(&["create", "secret", "generic", "db", "--from-literal=url=postgres://x"])?;
    place.until_condition("shop", "Ready", "False", "WaitingForPods").await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_schema_is_named_and_pods_are_made_when_it_is_there() -> Result<()> {
    let place = Place::new("schemas").await?;
    place.apply(&std::fs::read_to_string(repository("examples/cart/pipeline.yaml"))?)?;
    let sentence = place.until_condition("cart", "Ready", "False", "SchemaMissing").await?;
    let command = "kubectl create configmap cart-schemas -n schemas --from-file=order-event.avsc";
    assert!(sentence.contains(command), "{sentence}");
    place.until("Deployment", "cart-worker", "without a schema it could do nothing", |d| d.is_null()).await?;
    let file = format!("--from-file={}", repository("examples/cart/order-event.avsc"));
    place.kubectl(&["create", "configmap", "cart-schemas", &file])?;
    place.until_condition("cart", "Ready", "False", "SecretMissing").await?;
    let worker = place.get("Deployment", "cart-worker").await?;
    let mounts = worker["spec"]["template"]["spec"]["containers"][0]["volumeMounts"].to_string();
    assert!(mounts.contains("/etc/orderpipeline/schemas/cart-schemas"), "{mounts}");
    Ok(())
}

#[tokio::test]
async fn the_smallest_document_says_where_it_looks_for_its_api_keys() -> Result<()> {
    let place = Place::new("keys").await?;
    place.apply(&std::fs::read_to_string(repository("examples/quickstart/pipeline.yaml"))?)?;
    let sentence = place.until_condition("quickstart", "Ready", "False", "SecretMissing").await?;
    assert!(sentence.contains("kubectl create secret generic quickstart-api-keys -n keys --from-literal="), "{sentence}");
    let readme = std::fs::read_to_string(repository("examples/quickstart/README.md"))?;
    let command = readme.lines().find(|line| line.starts_with("kubectl create secret")).unwrap_or_default();
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    place.kubectl(&words)?;
    place.until_condition("quickstart", "Ready", "False", "WaitingForPods").await?;
    Ok(())
}

#[tokio::test]
async fn what_the_document_no_longer_has_is_removed_and_a_deleted_pipeline_leaves_nothing() -> Result<()> {
    let place = Place::new("removal").await?;
    place.apply(&(shop() + "  generator: {rate: 1}\n"))?;
    place.until("Deployment", "shop-generator", "it is made", |d| !d.is_null()).await?;
    place.patch("shop", &json!({"spec": {"generator": null}}))?;
    place.until("Deployment", "shop-generator", "it is removed", |d| d.is_null()).await?;
    place.get("Deployment", "shop-api").await?;

    place.kubectl(&["delete", "op", "shop"])?;
    for (kind, name) in [
        ("Deployment", "shop-api"),
        ("Deployment", "shop-worker"),
        ("Service", "shop-api"),
        ("ConfigMap", "shop-config"),
        ("ServiceAccount", "shop-runtime"),
        ("Role", "shop-runtime"),
        ("RoleBinding", "shop-runtime"),
    ] {
        place.until(kind, name, "it is collected", |o| o.is_null()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn pipelines_of_one_name_in_two_namespaces_do_not_meet() -> Result<()> {
    let (one, two) = (Place::new("north").await?, Place::new("south").await?);
    one.apply(&shop())?;
    two.apply(&shop().replace("replicas: 2", "replicas: 5"))?;
    one.until("Deployment", "shop-api", "it is made", |d| d["spec"]["replicas"] == 2).await?;
    two.until("Deployment", "shop-api", "it is made", |d| d["spec"]["replicas"] == 5).await?;
    one.kubectl(&["delete", "op", "shop"])?;
    one.until("Deployment", "shop-api", "it is collected", |d| d.is_null()).await?;
    assert_eq!(two.get("Deployment", "shop-api").await?["spec"]["replicas"], 5);
    Ok(())
}
