//! A broker that goes away and comes back.

use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{KEY, Pipeline, READY};
use e2e::proxy::Way;
use e2e::{ledger, load};
use reqwest::StatusCode;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_is_answered_with_503_and_comes_back_by_itself() {
    let (kafka, proxy) = Kafka::behind_proxy().await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.proxied(), "Derived").await.unwrap();
    let (_api, url) = pipeline.start("api").await.unwrap();
    let (_worker, worker) = pipeline.start("worker").await.unwrap();
    let http = e2e::http(Duration::from_secs(30));
    let status = async |url: String| http.get(url).send().await.unwrap().status();
    let plan = |name: &str, orders| load::Plan {
        urls: vec![url.clone()],
        key: KEY.into(),
        clients: 8,
        orders,
        statuses: vec!["PAID".into()],
        name: name.into(),
        patience: READY,
        pace: Duration::ZERO,
        stop: Arc::default(),
    };

    let mut told = Vec::new();
    for (round, way) in [Way::Cut, Way::Stalled].into_iter().enumerate() {
        // Under load, so that some requests are under way when it happens.
        let load = tokio::spawn(load::run(plan(&format!("away-{round}"), 2000), Arc::new(AtomicUsize::new(0))));
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.set(way);
        let posted = Instant::now();
        let body = json!({"orderId": format!("lone-{round}"), "customerId": "c", "items": [{"sku": "a", "quantity": 1}], "totalAmount": 1});
        let post =
            || http.post(format!("{url}/orders")).header("X-API-Key", KEY).header("X-Request-Id", format!("lone-{round}")).json(&body);
        let answer = post().send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{way:?}");
        assert!(answer.headers().contains_key("retry-after"));
        println!("{way:?}: 503 after {:?}", posted.elapsed());
        assert!(posted.elapsed() < Duration::from_secs(6), "{way:?}: {:?}", posted.elapsed());

        for at in [&url, &worker] {
            eventually("readyz turns 503", Duration::from_secs(20), || async {
                anyhow::ensure!(status(format!("{at}/readyz")).await == StatusCode::SERVICE_UNAVAILABLE, "{at} is still ready");
                Ok(())
            })
            .await
            .unwrap();
            assert_eq!(status(format!("{at}/healthz")).await, StatusCode::OK);
            assert_eq!(status(format!("{at}/readyz/latched")).await, StatusCode::OK);
        }
        let known = Instant::now();
        assert_eq!(post().send().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        println!("{way:?}: once known, 503 after {:?}", known.elapsed());
        assert!(known.elapsed() < Duration::from_secs(2), "a known outage is answered at once, not after {:?}", known.elapsed());

        proxy.set(Way::Open);
        for at in [&url, &worker] {
            eventually("it heals by itself", READY, || async {
                anyhow::ensure!(status(format!("{at}/readyz")).await == StatusCode::OK, "{at} is not ready");
                Ok(())
            })
            .await
            .unwrap();
        }
        eventually("the same request is accepted", READY, || async { Ok(post().send().await?.error_for_status()?) }).await.unwrap();
        told.push(load::Told { order_id: format!("lone-{round}"), body, created: load::Outcome::Accepted, changes: vec![], repeats: 0 });
        told.extend(load.await.unwrap().unwrap());
    }
    let stored = pipeline.settled(&told).await.unwrap();
    ledger::verify(&told, &stored).unwrap();
}
