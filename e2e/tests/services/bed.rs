//! The bed itself: what the other tests take for granted.

use e2e::bed::{Kafka, Postgres, eventually};
use e2e::proxy::Way;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::Connection;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_database_comes_back_with_its_rows_after_kill_9() {
    let postgres = Postgres::start().await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    sqlx::raw_sql("create table seen (n int); insert into seen values (7)").execute(&mut connection).await.unwrap();
    postgres.kill();
    assert!(sqlx::PgConnection::connect(&postgres.url()).await.is_err(), "a killed database still answers");
    postgres.restart().await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    let n: i32 = sqlx::query_scalar("select n from seen").fetch_one(&mut connection).await.unwrap();
    assert_eq!(n, 7);
}

#[tokio::test]
async fn a_cluster_of_three_keeps_taking_messages_while_one_is_killed() {
    let kafka = Kafka::start(3).await.unwrap();
    kafka.create_topic("letters", 3).await.unwrap();
    let producer: FutureProducer = kafka.client().set("acks", "all").create().unwrap();
    let write = |n: usize| {
        let producer = producer.clone();
        async move { producer.send(FutureRecord::to("letters").key(&n.to_string()).payload("x"), SOON).await }
    };
    write(0).await.unwrap();
    kafka.kill(2).unwrap();
    for n in 1..20 {
        write(n).await.unwrap();
    }
    kafka.restart(2).await.unwrap();
    write(20).await.unwrap();
    let reader: BaseConsumer = kafka.client().create().unwrap();
    let count: i64 = tokio::task::spawn_blocking(move || {
        (0..3).map(|p| reader.fetch_watermarks("letters", p, SOON).unwrap()).map(|(low, high)| high - low).sum()
    })
    .await
    .unwrap();
    assert_eq!(count, 21);
}

#[tokio::test]
async fn a_broker_behind_a_proxy_can_be_cut_off_and_given_back() {
    let (kafka, proxy) = Kafka::behind_proxy().await.unwrap();
    kafka.create_topic("letters", 1).await.unwrap();
    let producer: FutureProducer =
        kafka.client().set("bootstrap.servers", kafka.proxied()).set("message.timeout.ms", "1000").create().unwrap();
    let write = || producer.send(FutureRecord::<str, str>::to("letters").payload("x"), SOON);
    write().await.unwrap();
    for way in [Way::Cut, Way::Stalled] {
        proxy.set(way);
        assert!(write().await.is_err(), "{way:?}: a message got through");
        proxy.set(Way::Open);
        eventually("the broker is back", SOON, || async { Ok(write().await.map_err(|(why, _)| why)?) }).await.unwrap();
    }
}
