use super::reader::{POLL, options, payload};
use super::*;
use crate::broker::{BrokerError, ConsumerMode, ConsumerOptions, Happening, Partition};

pub fn partition(topic: &Arc<str>, number: i32) -> Partition {
    Partition { topic: topic.clone(), number }
}

/// `count` messages over all partitions of a topic, their number as the payload.
pub fn numbered(topic: &Arc<str>, partitions: i32, count: i32) -> impl Iterator<Item = Outgoing> {
    (0..count).map(move |n| message_to(topic, n % partitions, n.to_string()))
}

pub async fn a_reader_of_all_starts_at_the_start_and_commits_nothing(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 3).await;
    publish_all(&broker, numbered(&topic, 3, 30)).await;
    let mut reader = Reader::open(&broker, &topic, ConsumerMode::All).await;
    reader.read(30).await;
    assert_eq!(reader.owned.len(), 3, "it is told what it reads");
    let refused = reader.consumer.commit(&[reader.commit_for(&partition(&topic, 0), "").unwrap()]).await;
    assert!(matches!(refused, Err(BrokerError::Refused { .. })), "{refused:?}");

    let mut beside = Reader::open(&broker, &topic, ConsumerMode::All).await;
    publish(&broker, message(&topic, "k", "news")).await.expect("acked");
    reader.read(31).await;
    beside.read(31).await;
}

pub async fn a_group_goes_on_where_it_committed_and_finds_its_note(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    let both = [topic.to_string()];
    assert_eq!(broker.committed(&group, &both).await.expect("a new group"), []);
    publish_all(&broker, (0..10).map(|n| message_to(&topic, 0, n.to_string()))).await;

    let mut first = Reader::join(&broker, &topic, &group).await;
    first.read(10).await;
    assert!(first.owned.values().all(Option::is_none), "nothing was committed before: {:?}", first.owned);
    let mut commit = first.commit_for(&partition(&topic, 0), "").unwrap();
    for (offset, note) in [(3, "sealed: größe {\"a\":1}"), (6, ""), (7, "attempts 2")] {
        commit.next.offset = offset;
        commit.metadata = note.into();
        first.consumer.commit(std::slice::from_ref(&commit)).await.expect("committed");
        assert_eq!(broker.committed(&group, &both).await.unwrap(), [commit.clone()]);
    }
    first.consumer.commit(&[]).await.expect("nothing to commit is no mistake");
    first.consumer.close().await;

    let mut second = Reader::join(&bed.broker().await, &topic, &group).await;
    second.read(3).await;
    assert_eq!(second.payloads(), ["7", "8", "9"]);
    assert_eq!(second.owned[&partition(&topic, 0)], Some(commit));
    assert_eq!(second.owned[&partition(&topic, 1)], None);
    second.consumer.close().await;
}

pub async fn what_was_not_committed_comes_again(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    publish_all(&broker, numbered(&topic, 2, 20)).await;
    for _ in 0..2 {
        let mut reader = Reader::join(&broker, &topic, &group).await;
        reader.read(20).await;
        reader.consumer.close().await;
    }
    assert_eq!(broker.committed(&group, &[topic.to_string()]).await.unwrap(), []);
}

pub async fn groups_do_not_know_each_other(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 2).await;
    publish_all(&broker, numbered(&topic, 2, 20)).await;
    let (mut first, mut second) =
        (Reader::join(&broker, &topic, &bed.name("group")).await, Reader::join(&broker, &topic, &bed.name("group")).await);
    first.read(20).await;
    second.read(20).await;
    first.consumer.close().await;
    second.consumer.close().await;
}

pub async fn a_paused_partition_waits_and_loses_nothing(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    let mut reader = Reader::join(&broker, &topic, &group).await;
    reader.until("both partitions", |reader| reader.owned.len() == 2).await;
    let paused = partition(&topic, 0);
    for round in 0..2 {
        reader.seen.clear();
        reader.consumer.pause(std::slice::from_ref(&paused)).expect("paused");
        publish_all(&broker, numbered(&topic, 2, 20)).await;
        reader.read(10).await;
        reader.idle = 0;
        reader.until("polls that stay idle", |reader| reader.idle >= 3).await;
        assert!(reader.seen.iter().all(|read| read.at.partition.number == 1), "round {round}: {:?}", reader.payloads());
        reader.consumer.resume(std::slice::from_ref(&paused)).expect("resumed");
        reader.read(20).await;
        assert!(reader.seen[10..].iter().all(|read| read.at.partition == paused), "round {round}: {:?}", reader.payloads());
    }
    reader.consumer.close().await;
}

pub async fn a_cancelled_poll_loses_and_repeats_nothing(bed: Bed) {
    const COUNT: i32 = 400;
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    let mut reader = Reader::with(&broker, ConsumerOptions { batch_size: 7, ..options(&topic, ConsumerMode::Group(group)) }).await;
    let publisher = tokio::spawn({
        let (broker, topic) = (broker.clone(), topic.clone());
        async move { publish_all(&broker, numbered(&topic, 2, COUNT)).await }
    });
    let reading = async {
        let mut patience = 0;
        while reader.seen.len() < COUNT as usize {
            // From no time at all to enough: each poll is cut off somewhere else.
            patience = (patience + 1) % 100;
            if let Ok(happening) = timeout(Duration::from_micros(patience * patience), reader.consumer.next()).await {
                reader.take(happening).await;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("everything comes, although polls are cut off");
    publisher.await.unwrap();
    reader.idle = 0;
    reader.until("an idle poll", |reader| reader.idle > 0).await;
    assert_eq!(reader.seen.len(), COUNT as usize, "nothing comes twice");
    reader.consumer.close().await;
}

pub async fn a_batch_keeps_its_bounds(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 1).await;
    publish_all(&broker, (0..50).map(|n| message_to(&topic, 0, n.to_string()))).await;
    publish_all(&broker, (0..5).map(|n| message_to(&topic, 0, n.to_string().repeat(500_000)))).await;
    // One of the last messages alone is larger than what may be fetched ahead: it must come all the same.
    let bounded = ConsumerOptions { batch_size: 8, prefetch_bytes: 200_000, ..options(&topic, ConsumerMode::All) };
    let mut reader = Reader::with(&broker, bounded).await;
    let reading = async {
        while reader.seen.len() < 55 {
            let happening = reader.consumer.next().await;
            if let Happening::Messages(messages) = &happening {
                assert!(messages.len() <= 8, "{} messages in a batch of 8", messages.len());
            }
            reader.take(happening).await;
        }
    };
    timeout(PATIENCE, reading).await.expect("all 55 come");
    assert!(reader.seen.iter().take(50).enumerate().all(|(n, read)| payload(read) == n.to_string()));
}

pub async fn a_poll_without_news_is_idle(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 1).await;
    let mut reader = Reader::join(&broker, &topic, &bed.name("group")).await;
    reader.until("the partition", |reader| reader.owned.len() == 1).await;
    let started = Instant::now();
    reader.idle = 0;
    reader.until("idle polls", |reader| reader.idle >= 3).await;
    assert!(started.elapsed() >= POLL * 2, "three polls of {POLL:?} in {:?}: it spins", started.elapsed());
    publish(&broker, message(&topic, "k", "news")).await.expect("acked");
    reader.read(1).await;
    reader.consumer.close().await;
}
