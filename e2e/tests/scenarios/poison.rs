//! Messages that cannot be processed, put on the topic by somebody else.

use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{Pipeline, header};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_reaches_the_dead_letter_topic_and_the_next_one_is_processed() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let producer: FutureProducer = kafka.client().create().unwrap();
    let deep = "[".repeat(100_000);
    let poison: [&[u8]; 6] = [
        b"no json",
        b"\xff\xfe\x00",
        b"",
        deep.as_bytes(),
        br#"{"orderId":"p1","customerId":"c","items":[{"quantity":1}],"totalAmount":-1}"#,
        br#"{"orderId":"p2\u0000","customerId":"c","items":[{"quantity":1}],"totalAmount":1}"#,
    ];
    let good = br#"{"orderId":"good","customerId":"c","items":[{"sku":"a","quantity":1}],"totalAmount":1.5}"#;
    for body in poison.into_iter().chain([good.as_slice()]) {
        // one key: the good one lies behind all the others
        producer.send(FutureRecord::to(&pipeline.name).key("one").payload(body), Duration::from_secs(10)).await.unwrap();
    }
    let stored = eventually("the good one is stored", Duration::from_secs(60), || async {
        let stored = pipeline.stored().await?;
        anyhow::ensure!(!stored.is_empty(), "not yet");
        Ok(stored)
    })
    .await
    .unwrap();
    assert_eq!((stored.len(), stored[0].order_id.as_str()), (1, "good"));

    let consumer = letters(&kafka, &pipeline);
    let mut dead = Vec::new();
    while dead.len() < poison.len() {
        let message = consumer.poll(Duration::from_secs(20)).expect("a dead letter").unwrap();
        let headers: Vec<String> = message
            .headers()
            .unwrap()
            .iter()
            .map(|h| format!("{}={}", h.key, String::from_utf8_lossy(h.value.unwrap_or_default())))
            .collect();
        assert!(headers.iter().any(|h| h.contains(&pipeline.name)), "it says where it came from: {headers:?}");
        println!("{headers:?}");
        dead.push(message.payload().unwrap_or_default().to_vec());
    }
    for body in poison {
        assert!(
            dead.iter().any(|d| d == body),
            "{} is not among the dead letters, byte for byte",
            String::from_utf8_lossy(&body[..body.len().min(40)])
        );
    }
}

/// Somebody made the dead-letter topic with the broker's default size: a key that is larger by itself would never fit, and others wait
/// behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_whose_key_its_dead_letter_topic_does_not_take_is_cut_and_the_next_one_is_processed() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let letters_of = format!("{}-dlq", pipeline.name);
    let smaller = AlterConfig::new(ResourceSpecifier::Topic(&letters_of)).set("max.message.bytes", "1048588");
    kafka.admin().unwrap().alter_configs([&smaller], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let producer: FutureProducer = kafka.client().set("message.max.bytes", "16000000").create().unwrap();
    let key = "k".repeat(4 << 20);
    let poison = FutureRecord::to(&pipeline.name).partition(3).key(&key).payload("no json");
    producer.send(poison, Duration::from_secs(10)).await.unwrap();
    let good = r#"{"orderId":"good","customerId":"c","items":[{"sku":"a","quantity":1}],"totalAmount":1.5}"#;
    producer.send(FutureRecord::to(&pipeline.name).partition(3).key("one").payload(good), Duration::from_secs(10)).await.unwrap();
    eventually("the good one is stored", Duration::from_secs(60), || async {
        anyhow::ensure!(pipeline.stored().await?.iter().any(|order| order.order_id == "good"), "not yet");
        Ok(())
    })
    .await
    .unwrap();

    let letter = letters(&kafka, &pipeline).poll(Duration::from_secs(20)).expect("a dead letter").unwrap().detach();
    let kept = letter.key().unwrap();
    println!("of a key of {} bytes {} are kept", key.len(), kept.len());
    assert!(key.as_bytes().starts_with(kept) && (1000 << 10..1 << 20).contains(&kept.len()), "{} bytes of the key are left", kept.len());
    assert_eq!((header(&letter, "dlq-key-cut-from"), header(&letter, "dlq-partition")), (key.len().to_string(), "3".to_owned()));
}

/// Reads the pipeline's dead letters from their beginning.
fn letters(kafka: &Kafka, pipeline: &Pipeline) -> BaseConsumer {
    let consumer: BaseConsumer = kafka.client().set("group.id", "reader").create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..6 {
        all.add_partition_offset(&format!("{}-dlq", pipeline.name), partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    consumer
}
