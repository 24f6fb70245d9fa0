use super::*;
use crate::store::{Amount, Order, RawJson};
use std::sync::atomic::Ordering::SeqCst;

fn stored(id: &str, tenant: &str) -> Order {
    Order {
        order_id: id.into(),
        tenant_id: Some(tenant.into()),
        customer_id: None,
        items: Some(RawJson("[{\"sku\":\"a\"}]".into())),
        total_amount: Some(Amount("12.50".into())),
        status: Some("PAID".into()),
        created_at: chrono::DateTime::UNIX_EPOCH,
        updated_at: chrono::DateTime::UNIX_EPOCH,
        fields: Default::default(),
    }
}

#[tokio::test]
async fn an_order_is_read_as_it_is_stored_and_another_is_404() {
    let process = process();
    process.store.orders.lock().unwrap().push(stored("o 1", "t-1"));
    let reply = process.get("/orders/o%201").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(reply.text.contains("\"totalAmount\":12.50"), "{}", reply.text);
    assert_eq!(process.get("/orders/o-2").await.status, 404);
}

#[tokio::test]
async fn recent_orders_are_bounded_and_of_one_tenant_if_asked() {
    let process = process();
    for n in 0..60 {
        process.store.orders.lock().unwrap().push(stored(&format!("o-{n}"), if n % 2 == 0 { "even" } else { "odd" }));
    }
    let ids = |reply: &Reply| -> Vec<String> {
        reply.json["orders"].as_array().unwrap().iter().map(|o| o["orderId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(process.get("/orders").await.json["count"], 50);
    assert_eq!(ids(&process.get("/orders?limit=2").await), ["o-59", "o-58"]);
    assert_eq!(ids(&process.get("/orders?limit=2&tenantId=even").await), ["o-58", "o-56"]);
}

#[tokio::test]
async fn a_list_has_its_place_for_as_long_as_its_answer_lies_here() {
    let process = process();
    process.store.orders.lock().unwrap().push(stored("o-1", "t-1"));
    let list = async || process.router.clone().oneshot(request("GET", "/orders", Body::empty())).await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..LISTS {
        unread.push(list().await);
    }
    assert!(unread.iter().all(|answer| answer.status() == 200));
    let reply = process.get("/orders").await;
    assert_eq!((reply.status, &reply.json["error"]), (503, &json!("overloaded")), "{}", reply.text);
    unread.pop();
    assert_eq!(process.get("/orders").await.status, 200, "one is gone, and its place is free");
    assert_eq!(process.api.lists.available_permits(), 1);
}

#[tokio::test]
async fn a_page_holds_a_few_mebibytes_and_says_where_the_next_one_is() {
    let process = process();
    let large = |id: &str| Order { items: Some(RawJson(format!("[\"{}\"]", "x".repeat(1 << 20)))), ..stored(id, "a&b") };
    let ids: Vec<String> = (0..10).map(|n| format!("o +&{n}")).collect();
    process.store.orders.lock().unwrap().extend(ids.iter().map(|id| large(id)));
    let (mut path, mut seen, mut pages) = (Some("/orders?limit=9&tenantId=a%26b".to_owned()), Vec::new(), 0);
    while let Some(page) = path {
        assert!(page.starts_with("/orders?limit=9&tenantId=a%26b"), "the same question goes on: {page}");
        let reply = process.get(&page).await;
        assert_eq!(reply.status, 200, "{}", &reply.text[..200.min(reply.text.len())]);
        assert!(reply.text.len() < 5 << 20, "{} bytes", reply.text.len());
        let orders = reply.json["orders"].as_array().unwrap();
        assert_eq!(reply.json["count"], orders.len());
        seen.extend(orders.iter().map(|o| o["orderId"].as_str().unwrap().to_owned()));
        path = reply.json.get("next").map(|next| next.as_str().unwrap().to_owned());
        pages += 1;
    }
    seen.reverse();
    assert_eq!((seen, pages), (ids, 4));
}

#[tokio::test]
async fn a_query_that_cannot_be_meant_is_refused() {
    let process = process();
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("tenant=t", "tenant"),
        ("limit=1&limit=2", "limit"),
        ("tenantId=a&limit=1&tenantId=a", "tenantId"),
        ("tenantId=%ff", "tenantId"),
        ("tenantId=%C3%A4%C3", "tenantId"),
        ("tenantId=%2", "tenantId"),
        ("tenantId=100%", "tenantId"),
        ("after=o-1", "after"),
        ("after=x.o-1", "after"),
        ("after=99999999999999999999.o", "after"),
    ] {
        let reply = process.get(&format!("/orders?{query}")).await;
        assert_eq!((reply.status, reply.fields()), (422, vec![field]), "{query}: {}", reply.text);
    }
}

#[tokio::test]
async fn reads_are_503_while_the_store_is_away() {
    let process = process();
    process.store.down.store(true, SeqCst);
    for path in ["/orders", "/orders/o-1"] {
        let reply = process.get(path).await;
        assert_eq!(reply.status, 503, "{path}: {}", reply.text);
        assert!(reply.headers.contains_key("retry-after"), "{path}");
    }
}

#[tokio::test]
async fn ready_means_connected_now_and_latched_means_connected_once() {
    let process = process();
    let health = Health::new("test", false, Codecs::default());
    let watching = tokio::spawn(health.clone().watch(process.api.publisher.clone(), Some(process.store.clone()), Duration::from_millis(1)));
    let asked = Process { router: health::router(health.clone(), Metrics::default()), ..process };
    let until = async |path: &str, status: u16| {
        while asked.get(path).await.status != status {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    until("/readyz", 200).await;
    asked.broker.fail(fakes::Fault::Silent);
    until("/readyz", 503).await;
    let reply = asked.get("/readyz").await;
    assert!(reply.message().contains("the cable is cut"), "{}", reply.text);
    assert_eq!(asked.get("/readyz/latched").await.status, 200);
    assert_eq!(asked.get("/healthz").await.status, 200);
    asked.broker.fail(fakes::Fault::None);
    until("/readyz", 200).await;
    watching.abort();
}

#[tokio::test]
async fn a_process_that_was_never_connected_is_alive_and_not_ready() {
    let process = process();
    let asked = Process { router: health::router(Health::new("test", false, Codecs::default()), Metrics::default()), ..process };
    assert_eq!(asked.get("/healthz").await.status, 200);
    assert_eq!(asked.get("/readyz").await.status, 503);
    assert_eq!(asked.get("/readyz/latched").await.status, 503);
}

#[tokio::test]
async fn a_store_that_is_away_counts_only_where_nothing_can_be_accepted_without_it() {
    let links = health::Links { broker: None, store: Some("gone".into()) };
    for (needed, status) in [(false, 200), (true, 503)] {
        let health = Health::new("test", needed, Codecs::default());
        health.set(links.clone());
        let asked = Process { router: health::router(health, Metrics::default()), ..process() };
        assert_eq!(asked.get("/readyz").await.status, status);
    }
}
