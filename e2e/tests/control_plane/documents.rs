//! What the API server itself says of documents.

use crate::world::*;
use anyhow::Result;

#[tokio::test]
async fn the_examples_are_accepted_and_every_object_of_them_appears() -> Result<()> {
    for (example, deployments) in [
        ("quickstart", &["quickstart-api", "quickstart-worker"][..]),
        ("orders", &["orders-api", "orders-worker", "orders-generator"]),
        ("food", &["food-worker", "food-generator"]),
        ("retail", &["retail-worker"]),
    ] {
        let place = Place::new(&format!("example-{example}")).await?;
        let document = std::fs::read_to_string(repository(&format!("examples/{example}/pipeline.yaml")))?;
        place.apply(&document)?;
        for deployment in deployments {
            place.until("Deployment", deployment, "it is made", |d| !d.is_null()).await?;
        }
        for kind in ["ServiceAccount", "Role", "RoleBinding"] {
            place.get(kind, &format!("{example}-runtime")).await?;
        }
        if deployments.iter().any(|deployment| deployment.ends_with("-api")) {
            place.get("Service", &format!("{example}-api")).await?;
        }
        let config = place.get("ConfigMap", &format!("{example}-config")).await?;
        let config: crds::runtime_config::RuntimeConfig = serde_json::from_str(config["data"]["config.json"].as_str().unwrap_or_default())?;
        let mut pipeline = crds::document::read(&document).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
        pipeline.metadata.namespace = Some(place.namespace.clone());
        assert_eq!(config, crds::resolve(&pipeline), "the pods read what the document says");
    }
    Ok(())
}

#[tokio::test]
async fn a_union_with_two_members_or_none_is_refused_in_words() -> Result<()> {
    let place = Place::new("unions").await?;
    let mistakes = [
        (
            "kafka: {bootstrapServers: 'kafka:9092'}",
            "kafka: {bootstrapServers: 'k:1', strimzi: {name: x}}",
            "exactly one of strimzi and bootstrapServers",
        ),
        (", kafka: {bootstrapServers: 'kafka:9092'}", "", "exactly one of kafka and eventHubs must be set"),
        ("worker: {}", "worker: {replicas: 1, scaling: {max: 3}}", "replicas and scaling exclude each other"),
        ("worker: {}", "worker: {}\n  store: {}", "exactly one of postgres and memory must be set"),
        ("worker: {}", "worker: {}\n  backend: other", "backend must be the name of one of spec.backends"),
        ("api: {replicas: 2}", "api: {replicas: 2, orders: {}, cart: {}}", "only one of orders and cart may be set"),
    ];
    for (from, to, sentence) in mistakes {
        let document = shop().replace(from, to);
        assert_ne!(document, shop(), "{from}");
        let refusal = place.apply(&document).expect_err(to).to_string();
        assert!(refusal.contains(sentence), "{to}: {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn columns_short_name_category_and_scale_are_there() -> Result<()> {
    let place = Place::new("columns").await?;
    place.apply(&shop())?;
    place.until_condition("shop", "Reconciling", "True", "WaitingForPods").await?;
    let table = place.kubectl(&["get", "op"])?;
    assert!(
        table.lines().next().is_some_and(|head| head.contains("BACKEND") && head.contains("PHASE") && head.contains("READY")),
        "{table}"
    );
    assert!(table.contains("kafka"), "{table}");
    assert!(place.kubectl(&["get", "orders"])?.contains("shop"));
    place.kubectl(&["scale", "op/shop", "--replicas=3"])?;
    place.until("Deployment", "shop-worker", "it follows the scale", |d| d["spec"]["replicas"] == 3).await?;
    place.until("OrderPipeline", "shop", "its status follows", |p| p["status"]["worker"]["replicas"] == 3).await?;
    // What a HorizontalPodAutoscaler reads.
    let path = format!("/apis/orderpipeline.dev/v1alpha1/namespaces/{}/orderpipelines/shop/scale", place.namespace);
    let scale: serde_json::Value = serde_json::from_str(&place.kubectl(&["get", "--raw", &path])?)?;
    let selector = scale["status"]["selector"].as_str().unwrap_or_default();
    assert_eq!(scale["status"]["replicas"], 3, "{scale}");
    let pods = place.kubectl(&["get", "pods", "-o", "name", "-l", selector])?;
    assert!(
        !selector.is_empty() && pods.lines().count() == 3 && pods.lines().all(|pod| pod.starts_with("pod/shop-worker-")),
        "{scale}\n{pods}"
    );
    Ok(())
}
