use super::reader::{drive, payload};
use super::reading::{numbered, partition};
use super::*;
use crate::broker::{BrokerError, ConsumerMode, Happening, Partition, Reads, Uses};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// While messages keep coming, a second member joins and leaves: every message is seen once, those of a partition in their order.
pub async fn members_share_the_partitions_and_hand_over_without_loss(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 4).await, bed.name("group"));
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn({
        let (broker, topic, stop) = (broker.clone(), topic.clone(), stop.clone());
        async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                publish_all(&broker, (count..count + 20).map(|n| message_to(&topic, n % 4, n.to_string()))).await;
                count += 20;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            count as usize
        }
    });
    let mut first = Reader::join(&broker, &topic, &group).await;
    first.until("all partitions", |reader| reader.owned.len() == 4 && reader.seen.len() > 100).await;

    let mut second = Reader::join(&bed.broker().await, &topic, &group).await;
    let shared = |readers: &[&mut Reader]| {
        let [first, second] = readers else { unreachable!("two readers") };
        first.owned.len() == 2 && second.owned.len() == 2 && second.seen.len() > 100
    };
    drive(&mut [&mut first, &mut second], "two partitions each", shared).await;
    assert!(first.owned.keys().all(|partition| !second.owned.contains_key(partition)), "a partition has one owner");

    let commits: Vec<_> = second.owned.keys().filter_map(|partition| second.commit_for(partition, "")).collect();
    second.consumer.commit(&commits).await.expect("committed");
    second.consumer.close().await;
    first.until("all partitions again", |reader| reader.owned.len() == 4).await;

    stop.store(true, Ordering::Relaxed);
    let count = publisher.await.unwrap();
    first.until("the rest", |first| first.seen.len() + second.seen.len() >= count).await;
    first.idle = 0;
    first.until("an idle poll", |reader| reader.idle > 0).await;
    first.consumer.close().await;
    let mut by_partition: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let mut all: Vec<_> = first.seen.iter().chain(&second.seen).collect();
    assert_eq!(all.len(), count, "nothing is lost and nothing comes twice when each partition is committed before its release");
    all.sort_by_key(|read| read.at.clone());
    for read in all {
        by_partition.entry(read.at.partition.number).or_default().push(payload(read).parse().unwrap());
    }
    for (number, read) in by_partition {
        assert!(read.iter().copied().eq((0..count as i32).filter(|n| n % 4 == number)), "partition {number}: {read:?}");
    }
}

/// As a worker does which is given what is not to be read yet.
pub async fn what_is_paused_the_moment_it_is_given_is_read_when_it_goes_on(bed: Bed) {
    let broker = bed.broker().await;
    let topic = bed.topic(&broker, 4).await;
    publish_all(&broker, numbered(&topic, 4, 40)).await;
    for _ in 0..3 {
        let mut reader = Reader::join(&broker, &topic, &bed.name("group")).await;
        reader.until("all partitions", |reader| reader.owned.len() == 4).await;
        let owned: Vec<Partition> = reader.owned.keys().cloned().collect();
        reader.consumer.pause(&owned).expect("paused");
        let seen = reader.seen.len();
        reader.until("idle polls", |reader| reader.idle >= 3).await;
        assert_eq!(reader.seen.len(), seen, "it is paused");
        reader.consumer.resume(&owned).expect("read on");
        reader.read(40).await;
        reader.consumer.close().await;
    }
}

pub async fn a_revoked_partition_waits_for_its_release(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    publish_all(&broker, numbered(&topic, 2, 20)).await;
    let mut first = Reader::join(&broker, &topic, &group).await;
    first.read(20).await;
    let mut second = Reader::join(&bed.broker().await, &topic, &group).await;
    let (revoked, release) = revocation(&mut first, &mut second).await;

    // As long as the release is held, the other one does not have it, and the commit still counts.
    second.idle = 0;
    second.until("idle polls", |reader| reader.idle >= 5).await;
    assert!(revoked.iter().all(|partition| !second.owned.contains_key(partition)), "{revoked:?} is not released yet");
    let commits: Vec<_> = revoked.iter().map(|partition| first.commit_for(partition, "handed over").unwrap()).collect();
    first.consumer.commit(&commits).await.expect("what is not released can be committed");
    first.disown(&revoked);
    drop(release);

    let settled = |readers: &[&mut Reader]| readers.iter().all(|reader| reader.owned.len() == 1);
    drive(&mut [&mut first, &mut second], "one partition each", settled).await;
    for (partition, found) in &second.owned {
        assert_eq!(found.as_ref(), commits.iter().find(|commit| commit.next.partition == *partition), "it finds the last commit");
    }
    assert_eq!(second.payloads(), Vec::<String>::new(), "all was committed");
    first.consumer.close().await;
    second.consumer.close().await;
}

/// Lets the second one join until the first is asked to give a partition back; the release is in the caller's hands.
async fn revocation(first: &mut Reader, second: &mut Reader) -> (Vec<Partition>, oneshot::Sender<()>) {
    let asked = async {
        loop {
            tokio::select! {
                happening = first.consumer.next() => match happening {
                    Happening::Revoked { partitions, release } => return (partitions, release),
                    other => first.take(other).await,
                },
                happening = second.consumer.next() => second.take(happening).await,
            }
        }
    };
    timeout(PATIENCE, asked).await.expect("a member that joins gets a share")
}

pub async fn a_commit_after_the_release_is_refused(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    publish_all(&broker, numbered(&topic, 2, 20)).await;
    let mut first = Reader::join(&broker, &topic, &group).await;
    first.read(20).await;
    let kept: Vec<_> = (0..2).map(|number| first.commit_for(&partition(&topic, number), "late").unwrap()).collect();
    let mut second = Reader::join(&bed.broker().await, &topic, &group).await;
    let settled = |readers: &[&mut Reader]| readers.iter().all(|reader| reader.owned.len() == 1);
    drive(&mut [&mut first, &mut second], "one partition each", settled).await;

    let before = broker.committed(&group, &[topic.to_string()]).await.unwrap();
    for late in kept {
        let gone = !first.owned.contains_key(&late.next.partition);
        let result = first.consumer.commit(std::slice::from_ref(&late)).await;
        match result {
            Err(BrokerError::NotOwned { partition }) if gone => assert_eq!(partition, late.next.partition),
            Ok(()) if !gone => {}
            other => panic!("{:?} is gone: {gone}, but the commit came to {other:?}", late.next.partition),
        }
    }
    let after = broker.committed(&group, &[topic.to_string()]).await.unwrap();
    let of_second = |commits: &[crate::broker::Commit]| -> Vec<_> {
        commits.iter().filter(|commit| second.owned.contains_key(&commit.next.partition)).cloned().collect()
    };
    assert_eq!(of_second(&after), of_second(&before), "a refused commit leaves nothing behind");
    first.consumer.close().await;
    second.consumer.close().await;
}

/// A pause ends with the assignment in which it was asked for, also one that is asked for while the partition goes.
pub async fn a_partition_that_was_paused_when_it_went_is_read_when_it_comes_back(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    let mut first = Reader::join(&broker, &topic, &group).await;
    first.until("both partitions", |reader| reader.owned.len() == 2).await;
    let both = [partition(&topic, 0), partition(&topic, 1)];
    first.consumer.pause(&both).expect("paused");
    let mut second = Reader::join(&bed.broker().await, &topic, &group).await;
    let (revoked, release) = revocation(&mut first, &mut second).await;
    // Comes too late, and may be refused: who asks does not know yet that it has gone.
    let _ = first.consumer.pause(&revoked);
    first.disown(&revoked);
    drop(release);
    let settled = |readers: &[&mut Reader]| readers.iter().all(|reader| reader.owned.len() == 1);
    drive(&mut [&mut first, &mut second], "one partition each", settled).await;
    second.consumer.close().await;
    first.until("both partitions again", |reader| reader.owned.len() == 2).await;

    publish_all(&broker, numbered(&topic, 2, 20)).await;
    first.read(10).await;
    assert!(first.seen.iter().all(|read| revoked.contains(&read.at.partition)), "what never went stays paused: {:?}", first.payloads());
    first.consumer.resume(&both).expect("resumed");
    first.read(20).await;
    first.consumer.close().await;
}

pub async fn a_member_that_leaves_makes_room_at_once(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    let mut first = Reader::join(&broker, &topic, &group).await;
    first.until("both partitions", |reader| reader.owned.len() == 2).await;
    publish_all(&broker, numbered(&topic, 2, 20)).await;
    first.read(20).await;
    let mut second = Reader::join(&bed.broker().await, &topic, &group).await;
    // The first leaves without having answered anything, and without a commit.
    first.consumer.close().await;
    second.read(20).await;
    assert_eq!(second.owned.len(), 2);
    let after = first.consumer.next().await;
    assert!(!matches!(after, Happening::Messages(_) | Happening::Assigned(_)), "a closed consumer hands out nothing, but: {after:?}");
    second.consumer.close().await;
}

pub async fn more_members_than_partitions_leave_some_waiting(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 1).await, bed.name("group"));
    publish_all(&broker, numbered(&topic, 1, 5)).await;
    let mut first = Reader::join(&broker, &topic, &group).await;
    first.read(5).await;
    let mut second = Reader::join(&bed.broker().await, &topic, &group).await;
    let one_waits = |readers: &[&mut Reader]| readers.iter().map(|r| r.owned.len()).sum::<usize>() == 1 && readers[1].idle >= 3;
    drive(&mut [&mut first, &mut second], "one owner", one_waits).await;
    let (owner, mut waiting) = if first.owned.is_empty() { (second, first) } else { (first, second) };
    owner.consumer.close().await;
    waiting.until("the partition", |reader| reader.owned.len() == 1).await;
    waiting.consumer.close().await;
}

pub async fn asking_what_is_allowed_leaves_nothing_behind_and_disturbs_no_one(bed: Bed) {
    let broker = bed.broker().await;
    let (topic, group) = (bed.topic(&broker, 2).await, bed.name("group"));
    let uses = |group: &str| {
        let reads = |mode| Reads { mode, topics: vec![topic.to_string()] };
        let reads = vec![reads(ConsumerMode::Group(group.into())), reads(ConsumerMode::All)];
        Uses { writes: vec![message_to(&topic, 0, "never"), message(&topic, "k", "never")], reads }
    };
    publish_all(&broker, numbered(&topic, 2, 10)).await;
    let mut member = Reader::join(&broker, &topic, &group).await;
    member.read(10).await;
    let commits: Vec<_> = (0..2).map(|number| member.commit_for(&partition(&topic, number), "noted").unwrap()).collect();
    member.consumer.commit(&commits).await.expect("committed");

    let other = bed.broker().await;
    for _ in 0..3 {
        other.allows(&uses(&group), PATIENCE).await.expect("all is allowed, in a group that has a member");
    }
    member.idle = 0;
    member.until("idle polls", |reader| reader.idle >= 3).await;
    publish(&broker, message_to(&topic, 0, "10")).await.expect("acked");
    member.read(11).await;
    assert_eq!(member.owned.len(), 2, "nothing is taken from it");
    member.consumer.commit(&commits).await.expect("and it may commit");
    member.consumer.close().await;

    other.allows(&uses(&group), PATIENCE).await.expect("all is allowed, in a group without a member");
    let mut committed = broker.committed(&group, &[topic.to_string()]).await.unwrap();
    committed.sort_by_key(|commit| commit.next.partition.number);
    assert_eq!(committed, commits);
    let fresh = bed.name("group");
    other.allows(&uses(&fresh), PATIENCE).await.expect("all is allowed, in a group that nobody knows");
    assert_eq!(broker.committed(&fresh, &[topic.to_string()]).await.unwrap(), []);
    let ends: i64 = broker.ends(&topic).await.unwrap().iter().map(|end| end.offset).sum();
    assert_eq!(ends, 11, "no message was kept");
}
