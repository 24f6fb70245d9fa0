//! The runtime's Kafka backend on real Kafka.

use async_trait::async_trait;
use e2e::bed::{self, On, Right, eventually};
use e2e::proxy::Way;
use pipeline_runtime::broker::conformance::{self, Cluster};
use pipeline_runtime::broker::kafka::{Auth, Kafka, KafkaSettings, Publishing, Tls};
use pipeline_runtime::broker::{
    Broker, BrokerError, Commit, Completion, Consumer, ConsumerMode, ConsumerOptions, Happening, Outgoing, Position, PublishError,
    PublishResult, Reads, Target, TopicWish, Uses,
};
use pipeline_runtime::control::{Needs, usable};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

fn settings(bootstrap_servers: String) -> KafkaSettings {
    KafkaSettings { name: "events".into(), bootstrap_servers, tls: None, auth: None, publishing: Publishing::default() }
}

fn pem(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn letter(payload: String) -> Outgoing {
    Outgoing { topic: "letters".into(), target: Target::Key, key: Some("k".into()), headers: vec![], payload: Some(payload.into()) }
}

async fn publish(broker: &Kafka, payload: impl Into<String>) -> PublishResult {
    let (completion, answer) = Completion::new(None);
    broker.publish(letter(payload.into()), completion);
    answer.await.unwrap()
}

async fn reader(broker: &Kafka, mode: ConsumerMode) -> Box<dyn Consumer> {
    let options = ConsumerOptions {
        topics: vec!["letters".into()],
        mode,
        batch_size: 500,
        poll_interval: Duration::from_millis(100),
        prefetch_bytes: 8 << 20,
    };
    broker.consumer(options).await.unwrap()
}

async fn read(consumer: &dyn Consumer, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let reading = async {
        while seen.len() < count {
            if let Happening::Messages(messages) = consumer.next().await {
                seen.extend(messages.iter().map(|m| String::from_utf8(m.payload.clone().unwrap().to_vec()).unwrap()));
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.expect("the messages come");
    seen
}

fn wish(name: &str, partitions: u32) -> TopicWish {
    TopicWish { name: name.into(), partitions, replicas: None, retention: Duration::from_secs(3600), max_message_bytes: 1 << 20 }
}

/// As the user that may do nothing, unless it is allowed.
fn guest(kafka: &bed::Kafka) -> Kafka {
    let guest = Auth::Plain { username: "guest".into(), password: "guest-secret".into() };
    Kafka::new(KafkaSettings { auth: Some(guest), ..settings(kafka.sasl()) }).unwrap()
}

/// A client for each call, as each pod has its own.
struct Pods(String);

#[async_trait]
impl Cluster for Pods {
    async fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(Kafka::new(settings(self.0.clone())).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    let kafka = bed::Kafka::start(1).await.unwrap();
    conformance::run(Arc::new(Pods(kafka.bootstrap())), 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_login_publishes_and_reads_and_a_wrong_one_is_told_apart_from_an_outage() {
    let kafka = bed::Kafka::start(1).await.unwrap();
    kafka.create_topic("letters", 2).await.unwrap();
    let (certificate, key) = kafka.certificate(bed::USER);
    let (username, password) = (bed::USER.to_string(), bed::PASSWORD.to_string());
    let scram = Auth::ScramSha512 { username: username.clone(), password: password.clone() };
    let plain = Auth::Plain { username: username.clone(), password };
    let mtls = Auth::Mtls { certificate: pem(certificate), key: pem(key) };
    let tls = Some(Tls { ca: Some(pem(kafka.ca())) });
    let logins = [
        ("scram", kafka.sasl(), None, scram.clone()),
        ("plain", kafka.sasl(), None, plain.clone()),
        ("scram-tls", kafka.sasl_tls(), tls.clone(), scram),
        ("plain-tls", kafka.sasl_tls(), tls.clone(), plain),
        ("mtls", kafka.mtls(), tls.clone(), mtls),
    ];
    for (n, (name, servers, tls, auth)) in logins.into_iter().enumerate() {
        let broker = Kafka::new(KafkaSettings { tls, auth: Some(auth), ..settings(servers) }).unwrap();
        broker.connected().await.unwrap_or_else(|why| panic!("{name}: {why}"));
        publish(&broker, name).await.unwrap_or_else(|why| panic!("{name}: {why}"));
        let consumer = reader(&broker, ConsumerMode::Group(name.into())).await;
        assert_eq!(read(&*consumer, n + 1).await.len(), n + 1, "{name}");
        consumer.close().await;
    }

    let wrong = Auth::ScramSha512 { username: username.clone(), password: "wrong".into() };
    let broker = Kafka::new(KafkaSettings { auth: Some(wrong), ..settings(kafka.sasl()) }).unwrap();
    let told = broker.connected().await.unwrap_err();
    assert!(matches!(&told, BrokerError::Refused { .. }), "a wrong password is told as {told:?}");
    let stranger = KafkaSettings { tls, ..settings(kafka.mtls()) };
    let told = Kafka::new(stranger).unwrap().connected().await.unwrap_err();
    assert!(!told.to_string().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_rights_is_refused_for_good() {
    let kafka = bed::Kafka::start(1).await.unwrap();
    kafka.create_topic("letters", 1).await.unwrap();
    let broker = guest(&kafka);
    match publish(&broker, "x").await {
        Err(PublishError::Refused { reason, retriable: false }) => {
            assert!(reason.ends_with("grant its user WRITE on topic letters"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    let trouble = async |mode| {
        let consumer = reader(&broker, mode).await;
        let told = until(&*consumer, |happening| match happening {
            Happening::Trouble(error) => Some(error.to_string()),
            _ => None,
        });
        let told = told.await;
        consumer.close().await;
        told
    };
    let told = trouble(ConsumerMode::Group("shop".into())).await;
    assert!(told.starts_with("events refuses: reading needs the right READ on group shop: "), "{told}");
    kafka.allow("guest", Right::Describe(On::Topic("letters"))).await.unwrap();
    eventually("the topic can be seen", SOON, || async { Ok(broker.ends("letters").await?) }).await.unwrap();
    let told = trouble(ConsumerMode::All).await;
    assert!(told.starts_with("events refuses: reading needs the right READ on each of the topics letters: "), "{told}");
}

/// A user that may look at everything and do nothing: each right that is missing is named before an order waits, and nothing is left of the
/// asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_may_not_do_is_named_before_anything_is_led_there() {
    let kafka = bed::Kafka::start(1).await.unwrap();
    kafka.create_topic("letters", 2).await.unwrap();
    kafka.create_topic("news", 1).await.unwrap();
    let (letters, news, shop) = (On::Topic("letters"), On::Topic("news"), On::Group("shop"));
    let broker = guest(&kafka);
    let needs = |writes: &[&str], reads: &[(ConsumerMode, &[&str])]| {
        let trial = |topic: &&str| Outgoing { topic: (*topic).into(), target: Target::Partition(0), ..letter("never".into()) };
        let read = |(mode, topics): &(ConsumerMode, &[&str])| Reads {
            mode: mode.clone(),
            topics: topics.iter().map(|topic| topic.to_string()).collect(),
        };
        let uses = Uses { writes: writes.iter().map(trial).collect(), reads: reads.iter().map(read).collect() };
        Needs { topics: vec![wish("letters", 2), wish("news", 1)], uses }
    };
    let told = async |needs: &Needs, wanted: Result<(), &str>| {
        let wanted = wanted.map_err(|rights| format!("events does not allow user guest all that it has to do there: grant it {rights}"));
        let asking = || async {
            let asked = Instant::now();
            let told = usable(&broker, needs).await;
            println!("{:?}: {told:?}", asked.elapsed());
            anyhow::ensure!(told == wanted, "{told:?} is not {wanted:?}");
            Ok(())
        };
        eventually("it is told what is missing", SOON, asking).await.unwrap();
    };
    let worker = needs(&["letters", "news"], &[(ConsumerMode::Group("shop".into()), &["letters"])]);
    let everything = "READ on group shop, READ on topic letters, WRITE on topic letters, WRITE on topic news";
    told(&worker, Err(everything)).await;
    for right in [Right::Describe(letters), Right::Describe(news), Right::Describe(shop)] {
        kafka.allow("guest", right).await.unwrap();
    }
    eventually("topics can be seen", SOON, || async { Ok((broker.ends("letters").await?, broker.ends("news").await?)) }).await.unwrap();
    told(&worker, Err(everything)).await;
    told(&needs(&["letters"], &[]), Err("WRITE on topic letters")).await;
    kafka.allow("guest", Right::Write(letters)).await.unwrap();
    told(&needs(&["letters"], &[]), Ok(())).await;
    kafka.allow("guest", Right::Read(shop)).await.unwrap();
    told(&worker, Err("READ on topic letters, WRITE on topic news")).await;
    kafka.allow("guest", Right::Read(letters)).await.unwrap();
    told(&worker, Err("WRITE on topic news")).await;
    kafka.allow("guest", Right::Write(news)).await.unwrap();
    told(&worker, Ok(())).await;
    let view = needs(&[], &[(ConsumerMode::All, &["letters", "news"])]);
    told(&view, Err("READ on topic news")).await;
    kafka.allow("guest", Right::Read(news)).await.unwrap();
    told(&view, Ok(())).await;

    assert_eq!((kafka.messages("letters").await.unwrap().len(), kafka.messages("news").await.unwrap().len()), (0, 0));
    assert_eq!(broker.committed("shop", &["letters".into()]).await.unwrap(), []);
}

/// The first message to a cluster takes as long as the next one, and whoever leads a partition without being in reach is named before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_warmed_up_before_the_first_message() {
    let topics = ["letters".to_owned()];
    let (kafka, proxy) = bed::Kafka::behind_proxy().await.unwrap();
    kafka.create_topic("letters", 3).await.unwrap();
    let broker = Kafka::new(settings(kafka.proxied())).unwrap();
    // The cluster itself is warm by then, by another client.
    publish(&Kafka::new(settings(kafka.bootstrap())).unwrap(), "before").await.unwrap();
    usable(&broker, &Needs { topics: vec![wish("letters", 3)], ..Needs::default() }).await.unwrap();
    proxy.set(Way::Slow(Duration::from_millis(500)));
    let timed = async |payload| {
        let asked = Instant::now();
        publish(&broker, payload).await.unwrap();
        asked.elapsed()
    };
    let (first, second) = (timed("first").await, timed("second").await);
    println!("the first took {first:?}, the second {second:?}");
    assert!(first < second * 3 / 2, "the first took {first:?}, the second {second:?}");

    let cluster = bed::Kafka::start(3).await.unwrap();
    cluster.create_topic("letters", 3).await.unwrap();
    let broker = Kafka::new(settings(cluster.bootstrap())).unwrap();
    broker.warm_up(&topics, SOON).await.unwrap();
    cluster.stop(2).unwrap();
    // Each of the three leads one, and the others take that over only after some seconds.
    let refused = broker.warm_up(&topics, Duration::from_millis(1500)).await;
    // "reaching the leader of partition", unless each question for the leaders went to the one that hangs.
    assert!(matches!(refused, Err(BrokerError::Unreachable { .. })), "{refused:?}");
    cluster.resume(2).unwrap();
    broker.warm_up(&topics, SOON).await.unwrap();
}

/// kill -9, and a node that comes back: what was acked is there once, and nobody had to do anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_is_noticed_refused_at_once_and_healed() {
    let kafka = bed::Kafka::start(1).await.unwrap();
    kafka.create_topic("letters", 1).await.unwrap();
    let broker = Kafka::new(settings(kafka.bootstrap())).unwrap();
    let consumer = reader(&broker, ConsumerMode::All).await;
    broker.connected().await.unwrap();
    publish(&broker, "before").await.unwrap();
    assert_eq!(read(&*consumer, 1).await, ["before"]);

    kafka.kill(1).unwrap();
    let told = noticed(&broker).await;
    assert!(matches!(told, BrokerError::Unreachable { .. }), "{told:?}");
    let asked = Instant::now();
    let result = publish(&broker, "during").await;
    println!("refused after {:?}: {result:?}", asked.elapsed());
    assert!(matches!(result, Err(PublishError::Refused { retriable: true, .. })), "{result:?}");
    assert!(asked.elapsed() < Duration::from_secs(1), "a known outage is answered at once, not after {:?}", asked.elapsed());

    kafka.restart(1).await.unwrap();
    let healed = Instant::now();
    eventually("it heals by itself", SOON, || async { Ok(publish(&broker, "after").await?) }).await.unwrap();
    println!("healed {:?} after the broker was ready", healed.elapsed());
    broker.connected().await.unwrap();
    let read = read(&*consumer, 1).await;
    assert_eq!(read, ["after"], "the refused message must not have arrived");
    consumer.close().await;
}

/// A broker that accepts bytes and says nothing: nobody can know what becomes of a message, and that is what is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_broker_makes_outcomes_unknown_in_time() {
    let (kafka, proxy) = bed::Kafka::behind_proxy().await.unwrap();
    kafka.create_topic("letters", 1).await.unwrap();
    let broker = Kafka::new(settings(kafka.proxied())).unwrap();
    publish(&broker, "before").await.unwrap();
    proxy.set(Way::Stalled);
    let asked = Instant::now();
    let result = publish(&broker, "during").await;
    println!("unknown after {:?}: {result:?}", asked.elapsed());
    assert!(matches!(result, Err(PublishError::Unknown { .. })), "{result:?}");
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    noticed(&broker).await;

    proxy.set(Way::Open);
    eventually("it heals by itself", SOON, || async { Ok(publish(&broker, "after").await?) }).await.unwrap();
    eventually("it says so", SOON, || async { Ok(broker.connected().await?) }).await.unwrap();
    let consumer = reader(&broker, ConsumerMode::All).await;
    let seen = read(&*consumer, 2).await;
    assert_eq!((seen.first().map(String::as_str), seen.iter().filter(|s| *s == "during").count() < 2), (Some("before"), true), "{seen:?}");
    consumer.close().await;
}

/// A worker that is cut off for longer than its session has lost its partitions: it is told so, may commit nothing more,
/// and gets them back when the way is free. One that is cut off can still end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_loses_its_partitions_and_gets_them_back() {
    let (kafka, proxy) = bed::Kafka::behind_proxy().await.unwrap();
    kafka.create_topic("letters", 1).await.unwrap();
    let broker = Kafka::new(settings(kafka.proxied())).unwrap();
    let consumer = reader(&broker, ConsumerMode::Group("workers".into())).await;
    publish(&broker, "one").await.unwrap();
    assert_eq!(read(&*consumer, 1).await, ["one"]);

    proxy.set(Way::Stalled);
    let lost = until(&*consumer, |happening| match happening {
        Happening::Lost(partitions) => Some(partitions),
        _ => None,
    });
    let lost = lost.await;
    assert_eq!(lost.len(), 1);
    let next = Position { partition: lost[0].clone(), offset: 1 };
    let refused = consumer.commit(&[Commit { next, metadata: String::new() }]).await;
    assert!(matches!(refused, Err(BrokerError::NotOwned { .. })), "{refused:?}");

    proxy.set(Way::Open);
    let back = until(&*consumer, |happening| match happening {
        Happening::Assigned(partitions) => Some(partitions),
        _ => None,
    });
    assert_eq!(back.await, [(lost[0].clone(), None)]);
    assert_eq!(read(&*consumer, 1).await, ["one"], "what was not committed comes again");

    proxy.set(Way::Cut);
    let asked = Instant::now();
    tokio::time::timeout(SOON, consumer.close()).await.expect("a consumer that is cut off ends");
    println!("closed after {:?}", asked.elapsed());
}

/// Waits for one kind of happening, and lets the others pass.
async fn until<T>(consumer: &dyn Consumer, wanted: impl Fn(Happening) -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = wanted(consumer.next().await) {
                return found;
            }
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it happens")
}

/// What `connected` says once it has noticed.
async fn noticed(broker: &Kafka) -> BrokerError {
    let gone = Instant::now();
    let told = eventually("the outage is noticed", Duration::from_secs(10), || async {
        match broker.connected().await {
            Ok(()) => anyhow::bail!("still connected"),
            Err(why) => Ok(why),
        }
    });
    let told = told.await.unwrap();
    println!("noticed after {:?}: {told}", gone.elapsed());
    told
}
