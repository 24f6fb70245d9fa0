//! What cannot be written, comes too late, or goes away.

use super::*;
use crate::broker::conformance::reader::options;
use crate::publish::Gate;
use tokio::time::timeout;

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn while_it_is_down_all_is_refused_and_afterwards_it_goes_on() {
    let (embedded, broker) = with_topic(&Place::Memory, 1).await;
    let mut reader = Reader::join(&broker, &"t".into(), "g").await;
    publish(&embedded, to_t(0, "before")).await.unwrap();
    reader.read(1).await;
    let commit = reader.commit_for(&reader.seen[0].at.partition, "").unwrap();

    embedded.set_down(true);
    assert!(matches!(publish(&embedded, to_t(0, "x")).await, Err(PublishError::Refused { retriable: true, .. })));
    assert!(matches!(embedded.connected().await, Err(BrokerError::Unreachable { .. })));
    assert!(matches!(reader.consumer.next().await, Happening::Trouble(BrokerError::Unreachable { .. })));
    assert!(matches!(reader.consumer.commit(std::slice::from_ref(&commit)).await, Err(BrokerError::Unreachable { .. })));

    embedded.set_down(false);
    embedded.connected().await.unwrap();
    reader.consumer.commit(&[commit]).await.unwrap();
    publish(&embedded, to_t(0, "after")).await.unwrap();
    reader.read(2).await;
}

#[tokio::test]
async fn a_full_disk_refuses_and_heals_without_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let (embedded, broker) = with_topic(&Place::File(directory.path().join("state.db")), 1).await;
    let limit = async |pages: &'static str| {
        sqlx::raw_sql(pages).execute(&embedded.core.database.writer).await.unwrap();
    };
    publish(&embedded, to_t(0, "before")).await.unwrap();
    limit("PRAGMA max_page_count = 20").await;
    let refused = publish(&embedded, to_t(0, "x".repeat(1_000_000))).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Refused { retriable: true, reason } if reason.contains("full")), "{refused:?}");
    limit("PRAGMA max_page_count = 1000000").await;
    embedded.connected().await.unwrap();
    assert_eq!(publish(&embedded, to_t(0, "after")).await.unwrap().offset, 1);
    let mut reader = Reader::join(&broker, &"t".into(), "g").await;
    reader.read(2).await;
    assert_eq!(reader.payloads(), ["before", "after"]);
}

#[tokio::test]
async fn once_its_folder_was_deleted_nothing_is_taken_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let (embedded, _) = with_topic(&Place::File(directory.path().join("state.db")), 1).await;
    publish(&embedded, to_t(0, "before")).await.unwrap();
    embedded.connected().await.unwrap();
    std::fs::remove_dir_all(directory.path()).unwrap();
    let noticed = async {
        while !embedded.known_down() {
            tokio::time::sleep(SOON).await;
        }
    };
    timeout(Duration::from_secs(30), noticed).await.unwrap();
    let refused = publish(&embedded, to_t(0, "nobody would find it again")).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::Refused { retriable: true, reason } if reason.contains("state.db was deleted")),
        "{refused:?}"
    );
    let told = embedded.connected().await.unwrap_err().to_string();
    assert!(told.contains("start it again"), "{told}");
}

#[tokio::test]
async fn a_flush_that_comes_to_its_deadline_leaves_nothing_in_flight() {
    let directory = tempfile::tempdir().unwrap();
    let (embedded, _) = with_topic(&Place::File(directory.path().join("state.db")), 1).await;
    let writer = embedded.core.database.writer.acquire().await.unwrap();
    let gate = Gate::open();
    let answers: Vec<_> = (0..3000)
        .map(|_| {
            let (completion, answer) = Completion::new(Some(gate.enter().unwrap()));
            embedded.publish(to_t(0, "stuck"), completion);
            answer
        })
        .collect();
    embedded.flush(SOON).await;
    // The batch in hand is given up at once; those behind it when the writer comes to them.
    let first = answers.into_iter().next().unwrap().await.unwrap();
    assert!(matches!(first, Err(PublishError::Unknown { .. })), "{first:?}");
    drop(writer);
    embedded.flush(Duration::from_secs(30)).await;
    assert_eq!(gate.in_flight(), 0);
    publish(&embedded, to_t(0, "goes on")).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_keeps_what_it_took() {
    let directory = tempfile::tempdir().unwrap();
    let (embedded, _) = with_topic(&Place::File(directory.path().join("state.db")), 1).await;
    for (size, at_most) in [(10, 12_000), (5_000_000, 8)] {
        let writer = embedded.core.database.writer.acquire().await.unwrap();
        let payload = "x".repeat(size);
        let mut taken = Vec::new();
        let refused = loop {
            let mut answer = hand_over(&embedded, to_t(0, payload.clone()));
            tokio::task::yield_now().await;
            match answer.try_recv() {
                Ok(refused) => break refused,
                Err(_) => taken.push(answer),
            }
            assert!(taken.len() < at_most, "{} messages of {size} bytes wait and none was refused", taken.len());
        };
        assert!(matches!(refused, Err(PublishError::Refused { retriable: true, .. })), "{refused:?}");
        drop(writer);
        for answer in taken {
            answer.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn who_does_not_release_in_time_has_lost_it() {
    let database = Database::open(&Place::Memory).await.unwrap();
    let broker: Arc<dyn Broker> = Arc::new(EmbeddedBroker::with_release_within(database, "test", SOON).await.unwrap());
    broker.ensure_topics(&[topic_t(2)]).await.unwrap();
    let mut first = Reader::join(&broker, &"t".into(), "g").await;
    first.until("both partitions", |reader| reader.owned.len() == 2).await;
    let mut second = Reader::join(&broker, &"t".into(), "g").await;

    let (partitions, _held) = loop {
        match first.consumer.next().await {
            Happening::Revoked { partitions, release } => break (partitions, release),
            other => first.take(other).await,
        }
    };
    second.until("the partition that was not released", |reader| reader.owned.len() == 1).await;
    let next = Position { partition: partitions[0].clone(), offset: 0 };
    let late = first.consumer.commit(&[Commit { next, metadata: String::new() }]).await;
    assert!(matches!(late, Err(BrokerError::NotOwned { .. })), "{late:?}");
    let told = timeout(Duration::from_secs(30), async {
        loop {
            if let Happening::Lost(lost) = first.consumer.next().await {
                return lost;
            }
        }
    });
    assert_eq!(told.await.unwrap(), partitions);
}

#[tokio::test]
async fn a_consumer_of_a_missing_topic_is_told_so() {
    let (_, broker) = with_topic(&Place::Memory, 1).await;
    let missing = broker.consumer(options(&"missing".into(), ConsumerMode::All)).await.err().unwrap();
    assert!(missing.to_string().contains("topic missing does not exist"), "{missing}");
}
