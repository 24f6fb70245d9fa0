//! A target that cannot work is found out while orders flow on, not while they wait.

use super::{Flow, SWITCHED, judge};
use anyhow::ensure;
use e2e::bed::{Kafka, PASSWORD, eventually, free_port};
use e2e::fleet::storm::pauses;
use e2e::fleet::{Fleet, Shape};
use e2e::pipeline::READY;
use e2e::proxy::Way;
use std::time::{Duration, Instant};

/// A document with two more backends: one that is logged in to with a wrong password, and one that is not there.
fn shape(locked: &str, away: &str) -> Shape {
    let login = "auth: {plain: {username: app, passwordSecretRef: {name: locked, key: password}}}";
    let backends = format!(
        "- {{name: locked, kafka: {{bootstrapServers: \"{locked}\", {login}}}}}\n  - {{name: away, kafka: {{bootstrapServers: \"{away}\"}}}}"
    );
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: locked, namespace: orders}\nstringData: {password: wrong}\n---";
    let changes = vec![
        ("switching:", format!("{backends}\n  switching:")),
        ("apiVersion: orderpipeline.dev", format!("{secret}\napiVersion: orderpipeline.dev")),
        // One node cannot make them: who asks for a topic that is missing does not get it.
        ("partitions: 3}", "partitions: 3, replicas: 3}".to_owned()),
    ];
    Shape { workers: 1, changes, ..Shape::default() }
}

/// Asks for a target and awaits the refusal, which has to say all of this.
async fn refused(fleet: &Fleet, target: &str, because: &[&str]) {
    let asked = Instant::now();
    fleet.switch_to(target).unwrap();
    let said = || async {
        let (reason, message) = fleet.said_of_switch()?;
        ensure!(reason == "Refused" && message.starts_with(&format!("from left to {target}: ")), "{reason}: {message}");
        Ok(message)
    };
    let message = eventually("it is refused", SWITCHED, said).await.unwrap();
    println!("refused after {:.1?}: {message}", asked.elapsed());
    for word in because {
        assert!(message.contains(word), "{word:?} is not said: {message}");
    }
    assert_eq!(&*fleet.state().await.unwrap().newest().backend, "left");
}

async fn works(fleet: &Fleet, target: &str) {
    fleet.switch_to(target).unwrap();
    fleet.settled_on(target, SWITCHED).await.unwrap();
    fleet.switch_to("left").unwrap();
    fleet.settled_on("left", SWITCHED).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_work_is_refused_with_the_reason_while_orders_flow_on_and_taken_once_it_is_mended() {
    let locked = Kafka::start(1).await.unwrap();
    for topic in ["orders", "orders-dlq"] {
        locked.create_topic(topic, 3).await.unwrap();
    }
    let away = format!("127.0.0.1:{}", free_port().unwrap());
    let fleet = Fleet::start(shape(&locked.sasl(), &away)).await.unwrap();
    let flow = Flow::start(&fleet, "r", 8, Duration::from_millis(10));
    flow.goes_on(100).await;

    let (right, proxy) = &fleet.right;
    proxy.set(Way::Cut);
    refused(&fleet, "right", &["cannot be reached"]).await;
    refused(&fleet, "away", &["cannot be reached", "check"]).await;
    proxy.set(Way::Open);
    right.set_topic("orders", &[("max.message.bytes", "100000")]).await.unwrap();
    refused(&fleet, "right", &["topic orders", "100000", "1048576", "raise it there"]).await;
    refused(&fleet, "locked", &["Authentication failed", "check its login", "Secret"]).await;
    right.delete_topic("orders").await.unwrap();
    refused(&fleet, "right", &["topic orders", "create it"]).await;

    flow.goes_on(100).await;
    let told = flow.end().await;
    assert_eq!(told.iter().map(|told| told.repeats).sum::<usize>(), 0, "no request was refused\n{}", fleet.kubelet.tails());
    for (pod, printed) in fleet.kubelet.printed() {
        assert!(pauses(&printed).is_empty(), "{pod} let requests wait");
    }
    assert!(!fleet.operator_printed().contains("Hold {"), "orders were held");

    right.create_topic("orders", 3).await.unwrap();
    works(&fleet, "right").await;
    fleet.kubectl(&["patch", "secret", "locked", "-p", &format!(r#"{{"stringData":{{"password":"{PASSWORD}"}}}}"#)]).unwrap();
    let mounted = || async {
        ensure!(fleet.mounted("locked", "password").as_deref() == Some(PASSWORD), "the old password is mounted");
        Ok(())
    };
    eventually("the new password is mounted", READY, mounted).await.unwrap();
    // They come back with it by themselves too, within the better part of a minute.
    fleet.kubelet.containers().iter().for_each(|container| fleet.kubelet.kill(&container.pod));
    let again = || async {
        let pods = fleet.kubelet.containers();
        ensure!(pods.iter().all(|pod| pod.ready && pod.restarts > 0), "{pods:?}");
        Ok(())
    };
    eventually("the pods are back", READY, again).await.unwrap();
    let flow = Flow::start(&fleet, "m", 8, Duration::from_millis(10));
    works(&fleet, "locked").await;
    let told: Vec<_> = told.into_iter().chain(flow.end().await).collect();
    judge(&fleet, &told, READY).await;
}
