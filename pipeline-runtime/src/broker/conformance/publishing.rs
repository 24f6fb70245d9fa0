use super::*;
use crate::broker::{BrokerError, ConsumerMode, PublishError};
use std::collections::{BTreeMap, BTreeSet};

pub async fn an_acked_message_can_be_read(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 3).await;
    let at = publish(&broker, message(&topic, "k", "hello")).await.expect("acked");
    assert_eq!((&*at.partition.topic, at.offset), (&*topic, 0));

    let other = bed.broker().await;
    for mode in [ConsumerMode::Group(bed.name("group")), ConsumerMode::All] {
        let mut reader = Reader::open(&other, &topic, mode).await;
        reader.read(1).await;
        let read = &reader.seen[0];
        assert_eq!((&read.at, reader::payload(read).as_str(), read.key.as_deref()), (&at, "hello", Some(&b"k"[..])));
        assert_eq!(read.header("type"), Some(&b"Test"[..]));
        assert!(read.timestamp_ms > 1_500_000_000_000, "milliseconds since 1970, not {}", read.timestamp_ms);
        reader.consumer.close().await;
    }
}

pub async fn what_is_published_comes_back_bit_for_bit(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 1).await;
    let odd = Bytes::from_static(&[0, 255, 128, b'\n', 0xC3]);
    let header = |name: &str, value: &Bytes| Header { name: name.into(), value: value.clone() };
    let shapes = [
        (None, vec![], None),
        (Some(Bytes::new()), vec![], Some(Bytes::new())),
        (Some(odd.clone()), vec![header("empty", &Bytes::new()), header("odd", &odd)], Some(odd.clone())),
        (None, vec![header("twice", &odd), header("größe", &odd), header("twice", &Bytes::new())], Some(odd.clone())),
        (Some(Bytes::from_static(b"seal")), vec![header("epoch", &odd)], None),
        (Some(Bytes::from(vec![7; 10_000])), vec![], Some(Bytes::from((0..=255).cycle().take(700_000).collect::<Vec<u8>>()))),
    ];
    for (key, headers, payload) in &shapes {
        let sent =
            Outgoing { topic: topic.clone(), target: Target::Key, key: key.clone(), headers: headers.clone(), payload: payload.clone() };
        publish(&broker, sent).await.expect("acked");
    }
    let mut reader = Reader::open(&broker, &topic, ConsumerMode::All).await;
    reader.read(shapes.len()).await;
    for (read, (key, headers, payload)) in reader.seen.iter().zip(&shapes) {
        assert_eq!((&read.key, &read.headers), (key, headers));
        assert!(read.payload == *payload, "the payload of {:?} differs", read.at);
    }
}

pub async fn a_key_keeps_its_order(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 4).await;
    let acked = publish_all(&broker, (0..300).map(|n| message(&topic, format!("key-{}", n % 10), format!("{n}")))).await;
    let mut reader = Reader::open(&broker, &topic, ConsumerMode::All).await;
    reader.read(300).await;

    let mut last: BTreeMap<Bytes, u32> = BTreeMap::new();
    for read in &reader.seen {
        let n: u32 = reader::payload(read).parse().unwrap();
        assert_eq!(read.at, acked[n as usize], "message {n} is where its ack said");
        let before = last.insert(read.key.clone().unwrap(), n);
        assert!(before.is_none_or(|before| before + 10 == n), "message {n} came after {before:?} of its key");
    }
}

/// The hashes are those of Kafka's own tests of its default partitioner.
pub async fn a_key_has_the_partition_that_kafka_gives_it(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 7).await;
    let vectors: [(&str, i32); 7] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
        ("", 0x106e_08d9),
    ];
    for (key, hash) in vectors {
        for _ in 0..2 {
            let at = publish(&broker, message(&topic, key, "x")).await.expect("acked");
            assert_eq!(at.partition.number, (hash & 0x7fff_ffff) % 7, "partition of {key:?}");
        }
    }
}

pub async fn a_message_goes_to_the_partition_it_names(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 3).await;
    for number in [2, 0, 1, 2] {
        let sent = Outgoing { key: Some(Bytes::from_static(b"same")), ..message_to(&topic, number, format!("to {number}")) };
        assert_eq!(publish(&broker, sent).await.expect("acked").partition.number, number);
    }
    for missing in [3, -2] {
        let refused = publish(&broker, message_to(&topic, missing, "nowhere")).await;
        assert!(matches!(refused, Err(PublishError::Refused { .. })), "partition {missing} does not exist, but: {refused:?}");
    }
    let mut reader = Reader::open(&broker, &topic, ConsumerMode::All).await;
    reader.read(4).await;
    assert!(reader.seen.iter().all(|read| reader::payload(read) == format!("to {}", read.at.partition.number)));
}

pub async fn a_message_that_is_too_large_is_refused_for_good(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 1).await;
    let refused = publish(&broker, message(&topic, "k", "x".repeat(MAX_MESSAGE + 1))).await;
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })), "{refused:?}");
    // A little room is left for what a broker adds to a message.
    publish(&broker, message(&topic, "k", "x".repeat(MAX_MESSAGE - 4096))).await.expect("what fits is taken, also after a refusal");
}

pub async fn an_unknown_topic_is_refused(bed: Bed) {
    let broker = bed.broker().await;
    let refused = publish(&broker, message(&bed.name("missing").into(), "k", "x")).await;
    assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
}

pub async fn many_publishers_at_once_are_all_acked_in_their_order(bed: Bed) {
    const PUBLISHERS: usize = 16;
    const EACH: usize = 200;
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 4).await;
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let (broker, topic) = (broker.clone(), topic.clone());
        tokio::spawn(async move {
            let messages = (0..EACH).map(|n| message(&topic, format!("p{publisher}"), format!("{n}")));
            publish_all(&broker, messages).await
        })
    });
    let acked: Vec<_> = futures::future::try_join_all(publishers).await.unwrap();
    for positions in &acked {
        assert!(positions.is_sorted_by(|a, b| a.partition == b.partition && a.offset < b.offset), "acks of one caller are in its order");
    }
    let all: BTreeSet<_> = acked.iter().flatten().collect();
    assert_eq!(all.len(), PUBLISHERS * EACH, "no position is given twice");

    let mut reader = Reader::open(&broker, &topic, ConsumerMode::All).await;
    reader.read(PUBLISHERS * EACH).await;
    for (publisher, positions) in acked.iter().enumerate() {
        let key = format!("p{publisher}");
        let read: Vec<_> = reader.seen.iter().filter(|read| read.key.as_deref() == Some(key.as_bytes())).collect();
        assert!(read.iter().map(|read| &read.at).eq(positions), "{key} reads back where it was acked");
        assert!(read.iter().enumerate().all(|(n, read)| reader::payload(read) == n.to_string()), "{key} reads back in its order");
    }
}

pub async fn a_flush_leaves_nothing_unanswered(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 2).await;
    let answers: Vec<_> = (0..500).map(|n| hand_over(&broker, message(&topic, format!("{n}"), "x"))).collect();
    broker.flush(PATIENCE).await;
    for mut answer in answers {
        answer.try_recv().expect("answered when the flush returns").expect("acked");
    }
    broker.flush(PATIENCE).await; // nothing to do is no mistake
}

pub async fn topics_are_made_once_and_then_left_alone(bed: Bed) {
    let broker = bed.broker().await;
    let (first, second) = (bed.name("topic"), bed.name("topic"));
    broker.ensure_topics(&[wish(&first, 2)]).await.expect("made");
    publish(&broker, message(&first.as_str().into(), "k", "kept")).await.expect("acked");

    let other = bed.broker().await;
    other.ensure_topics(&[wish(&first, 5), wish(&second, 1)]).await.expect("one is there, one is made");
    other.ensure_topics(&[wish(&second, 1), wish(&first, 2)]).await.expect("both are there");
    other.ensure_topics(&[]).await.expect("no wish is no mistake");
    assert_eq!(broker.topic(&first).await.unwrap().expect("it exists").partitions, 2, "its keys must not move");
    assert_eq!(broker.topic(&second).await.unwrap().expect("it exists").partitions, 1);
    let mut reader = Reader::open(&other, &first.as_str().into(), ConsumerMode::All).await;
    reader.read(1).await;
    assert_eq!(reader.payloads(), ["kept"]);
}

pub async fn a_topic_tells_what_it_takes_and_where_it_begins_and_ends(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 3).await;
    let facts = broker.topic(&topic).await.unwrap().expect("it exists");
    assert_eq!(facts.partitions, 3);
    assert!(facts.max_message_bytes.is_none_or(|bytes| bytes >= MAX_MESSAGE), "{facts:?}");
    let ends = async || -> Vec<(i32, i64)> {
        let mut ends: Vec<_> = broker.ends(&topic).await.unwrap().into_iter().map(|end| (end.partition.number, end.offset)).collect();
        ends.sort();
        ends
    };
    assert_eq!(ends().await, [(0, 0), (1, 0), (2, 0)]);
    publish_all(&broker, [message_to(&topic, 1, "a"), message_to(&topic, 1, "b"), message_to(&topic, 2, "c")]).await;
    assert_eq!(ends().await, [(0, 0), (1, 2), (2, 1)]);
    let starts = broker.starts(&topic).await.unwrap();
    assert!(starts.len() == 3 && starts.iter().all(|start| start.offset == 0), "all is there: {starts:?}");

    let missing = bed.name("missing");
    assert_eq!(broker.topic(&missing).await.unwrap(), None);
    let refused = broker.ends(&missing).await;
    assert!(matches!(refused, Err(BrokerError::NoTopic { .. })), "{refused:?}");
}

pub async fn a_running_broker_is_connected(bed: Bed) {
    let broker = bed.broker().await;
    assert!(!broker.name().is_empty());
    broker.connected().await.expect("it answers");
    let topic = bed.topic(&broker, 3).await;
    broker.warm_up(&[topic.to_string()], PATIENCE).await.expect("the way to its topics is open");
}
