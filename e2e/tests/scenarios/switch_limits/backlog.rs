//! A large backlog on the broker that is left, and a switch back while it drains. Every request id is claimed in the database besides.

use super::{Flow, SWITCHED, effects_now, judge};
use anyhow::{Context, Result, ensure};
use e2e::bed::{Kafka, eventually};
use e2e::fleet::{Fleet, Shape};
use e2e::load::{Outcome, Told};
use rdkafka::Message;
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::json;
use std::time::{Duration, Instant};
use uuid::Uuid;

const BACKLOG: usize = 50_000;
const DRAINED: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_unread_orders_are_left_for_another_broker_and_returned_to_before_they_are_read() {
    let strict = vec![("api: {", "api: {idempotency: Strict, ".to_owned())];
    let fleet = Fleet::start(Shape { right_partitions: 4, changes: strict, ..Shape::default() }).await.unwrap();
    fleet.patch(&json!({"spec": {"worker": {"replicas": 0}}})).unwrap();
    fleet.ready(2).await.unwrap();
    let flow = Flow::start(&fleet, "b", 8, Duration::from_millis(10));
    flow.goes_on(20).await;
    let mut told = backlog(&fleet.left.0).await.unwrap();

    let begun = Instant::now();
    fleet.switch_to("right").unwrap();
    fleet.until("writes go there", SWITCHED, |state| *state.newest().backend == *"right").await.unwrap();
    fleet.patch(&json!({"spec": {"worker": {"replicas": 2}}})).unwrap();
    let some = || async {
        let has = effects_now(&fleet).await?;
        ensure!(has >= 1_000, "{has}");
        Ok(has)
    };
    let read = eventually("the backlog is read", DRAINED, some).await.unwrap();
    assert!(read < BACKLOG / 2, "most of it is unread: {read}");
    fleet.switch_to("left").unwrap();
    let back = fleet.until("writes are back", SWITCHED, |state| *state.newest().backend == *"left").await.unwrap();
    assert_eq!(back.active().epoch, 1, "the first broker still drains: {back:?}");
    flow.goes_on(100).await;
    fleet.settled_on("left", DRAINED).await.unwrap();
    println!("{BACKLOG} orders were read, and both brokers drained, after {:.0?}", begun.elapsed());

    // Now and then with a pod that dies between its claim and its answer.
    for target in ["right", "left", "right", "left"] {
        fleet.switch_to(target).unwrap();
        let api = fleet.kubelet.of("api");
        fleet.kubelet.kill(&api[usize::from(target == "left")].pod);
        fleet.settled_on(target, SWITCHED).await.unwrap();
        flow.goes_on(20).await;
    }
    told.extend(flow.end().await);
    judge(&fleet, &told, DRAINED).await;
}

/// Writes many more orders like the first one that lies there, one in ten with changes, and returns when all are acknowledged.
async fn backlog(kafka: &Kafka) -> Result<Vec<Told>> {
    let like = kafka.messages("orders").await?;
    let of = |event: &str| {
        let is = |message: &&OwnedMessage| header(message, "type").as_deref() == Some(event);
        like.iter().find(is).cloned().with_context(|| format!("nobody has posted an {event} yet"))
    };
    let (created, changed) = (of("OrderCreated")?, of("OrderStatusChanged")?);
    let mut config = kafka.client();
    config.set("partitioner", "murmur2_random").set("enable.idempotence", "true").set("queue.buffering.max.messages", "200000");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    let write = |like: &OwnedMessage, order: &str, body: &serde_json::Value| -> Result<()> {
        let (headers, body) = (headers(like), body.to_string());
        producer.send(BaseRecord::to("orders").key(order).payload(&body).headers(headers)).map_err(|(why, _)| why.into())
    };
    let mut told = Vec::new();
    for number in 0..BACKLOG {
        let order_id = format!("backlog-{number}");
        let body = json!({"orderId": order_id, "customerId": "c", "items": [{"sku": "s", "quantity": 1}], "totalAmount": 1.5});
        write(&created, &order_id, &body)?;
        let statuses = if number % 10 == 0 { &["PAID", "SHIPPED"][..] } else { &[] };
        for status in statuses {
            write(&changed, &order_id, &json!({"orderId": order_id, "status": status}))?;
        }
        let changes = statuses.iter().map(|status| ((*status).to_owned(), Outcome::Accepted)).collect();
        told.push(Told { order_id, body, created: Outcome::Accepted, changes, repeats: 0 });
    }
    tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(60))).await??;
    Ok(told)
}

fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let header = message.headers()?.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(header.value?).into_owned())
}

/// The same, of another event.
fn headers(like: &OwnedMessage) -> OwnedHeaders {
    let all = like.headers().into_iter().flat_map(Headers::iter);
    all.fold(OwnedHeaders::new(), |headers, Header { key, value }| match key {
        "id" => headers.insert(Header { key, value: Some(Uuid::new_v4().to_string().as_bytes()) }),
        _ => headers.insert(Header { key, value }),
    })
}
