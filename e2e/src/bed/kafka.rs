//! A throw-away Apache Kafka (KRaft, combined mode) of one or three nodes, each in its own JVM.
//!
//! Users: `app` may do everything, `guest` nothing; by SCRAM-SHA-512, PLAIN or client certificate.

use super::{Process, READY_WITHIN, Room, eventually, free_port, prepared};
use crate::proxy::Proxy;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The user that may do everything, by SASL or by the certificate of that name.
pub const USER: &str = "app";
pub const PASSWORD: &str = "app-secret";

const TEMPLATE: &str = include_str!("../../services/kafka/server.properties.in");
const LOGGING: &str = include_str!("../../services/kafka/log4j2.properties");

pub struct Kafka {
    // before the room, so that the processes end before their folder goes
    nodes: Vec<Node>,
    /// The files that `e2e/prepare` made.
    prepared: PathBuf,
    room: Arc<Room>,
    for_load: bool,
}

struct Node {
    ports: Ports,
    process: Mutex<Option<Process>>,
}

struct Ports {
    controller: u16,
    clear: u16,
    sasl: u16,
    sasl_tls: u16,
    mtls: u16,
    /// Where it listens for the proxy, and what it tells clients that come through it.
    proxied: Option<(u16, u16)>,
}

impl Kafka {
    /// A cluster of `nodes` (1, or 3 with three replicas of everything), ready to be written to.
    pub async fn start(nodes: usize) -> Result<Kafka> {
        let ports = (0..nodes).map(|_| Ports::pick(None)).collect::<Result<Vec<Ports>>>()?;
        Kafka::with_ports(ports, false).await
    }

    /// One node that is quick when it has run for a while, and slow to start.
    pub async fn for_load() -> Result<Kafka> {
        Kafka::with_ports(vec![Ports::pick(None)?], true).await
    }

    /// One node behind a proxy: clients that begin at `proxied()` reach it only through there.
    pub async fn behind_proxy() -> Result<(Kafka, Proxy)> {
        let inner = free_port()?;
        let proxy = Proxy::start(format!("127.0.0.1:{inner}")).await?;
        let kafka = Kafka::with_ports(vec![Ports::pick(Some((inner, proxy.port())))?], false).await?;
        Ok((kafka, proxy))
    }

    async fn with_ports(ports: Vec<Ports>, for_load: bool) -> Result<Kafka> {
        ensure!(ports.len() == 1 || ports.len() == 3, "a test cluster has 1 or 3 nodes, not {}", ports.len());
        let nodes = ports.into_iter().map(|ports| Node { ports, process: Mutex::default() }).collect();
        let kafka = Kafka { nodes, prepared: prepared("kafka")?, room: Room::new("kafka")?, for_load };
        for node in 1..=kafka.nodes.len() {
            kafka.format(node)?;
            kafka.launch(node)?;
        }
        kafka.ready().await?;
        Ok(kafka)
    }

    /// Without login; who comes in here may do everything.
    pub fn bootstrap(&self) -> String {
        self.addresses(|p| Some(p.clear))
    }
    /// Login by SCRAM-SHA-512 or PLAIN, in clear text.
    pub fn sasl(&self) -> String {
        self.addresses(|p| Some(p.sasl))
    }
    /// The same with TLS; the certificate is signed by `ca()`.
    pub fn sasl_tls(&self) -> String {
        self.addresses(|p| Some(p.sasl_tls))
    }
    /// TLS with client certificates.
    pub fn mtls(&self) -> String {
        self.addresses(|p| Some(p.mtls))
    }
    /// Without login, through the proxy.
    pub fn proxied(&self) -> String {
        self.addresses(|p| p.proxied.map(|(_, seen)| seen))
    }
    pub fn ca(&self) -> PathBuf {
        self.prepared.join("tls/ca.crt")
    }
    /// Certificate and key of `app` or `guest`.
    pub fn certificate(&self, user: &str) -> (PathBuf, PathBuf) {
        let dir = self.prepared.join("tls");
        (dir.join(format!("{user}.crt")), dir.join(format!("{user}.key")))
    }

    /// kill -9. Nodes count from 1.
    pub fn kill(&self, node: usize) -> Result<()> {
        self.process(node)?.take();
        Ok(())
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn stop(&self, node: usize) -> Result<()> {
        self.signal(node, Signal::SIGSTOP)
    }
    pub fn resume(&self, node: usize) -> Result<()> {
        self.signal(node, Signal::SIGCONT)
    }

    /// Starts a killed node again, on its old data and ports, and waits until it answers.
    pub async fn restart(&self, node: usize) -> Result<()> {
        self.kill(node)?;
        self.launch(node)?;
        self.ready().await
    }

    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.create_topic_with(name, partitions, &[]).await
    }

    /// Creates a topic, with settings such as `("max.message.bytes", "1000")`.
    pub async fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let admin = self.admin()?;
        let replicas = i32::try_from(self.nodes.len())?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for created in admin.create_topics([&topic], &options).await? {
            created.map_err(|(topic, why)| anyhow::anyhow!("creating topic {topic}: {why}"))?;
        }
        Ok(())
    }

    /// Gives a topic other settings than it was made with; those that are not named go back to the cluster's.
    pub async fn set_topic(&self, name: &str, settings: &[(&str, &str)]) -> Result<()> {
        let topic = AlterConfig::new(ResourceSpecifier::Topic(name));
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        for changed in self.admin()?.alter_configs([&topic], &AdminOptions::new()).await? {
            changed.map_err(|(_, why)| anyhow::anyhow!("changing topic {name}: {why}"))?;
        }
        Ok(())
    }

    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        for deleted in self.admin()?.delete_topics(&[name], &AdminOptions::new()).await? {
            deleted.map_err(|(topic, why)| anyhow::anyhow!("deleting topic {topic}: {why}"))?;
        }
        Ok(())
    }

    /// All that a topic holds now, partition by partition.
    pub async fn messages(&self, topic: &str) -> Result<Vec<OwnedMessage>> {
        let (config, topic) = (self.client(), topic.to_owned());
        tokio::task::spawn_blocking(move || read_all(config, &topic)).await?
    }

    pub fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client().create()?)
    }

    /// Settings for a client of the test itself.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
        config.set("log_level", "2"); // a broker that a test has killed is no news
        config
    }

    fn addresses(&self, port: impl Fn(&Ports) -> Option<u16>) -> String {
        let all: Vec<String> = self.nodes.iter().filter_map(|n| port(&n.ports)).map(|p| format!("127.0.0.1:{p}")).collect();
        all.join(",")
    }

    fn process(&self, node: usize) -> Result<MutexGuard<'_, Option<Process>>> {
        let node = node.checked_sub(1).and_then(|i| self.nodes.get(i)).with_context(|| format!("there is no node {node}"))?;
        Ok(node.process.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        self.process(node)?.as_ref().with_context(|| format!("node {node} does not run"))?.signal(signal)
    }

    fn folder(&self, node: usize) -> PathBuf {
        self.room.path().join(node.to_string())
    }

    /// Gives a node the storage that `e2e/prepare` has formatted, with the SCRAM users in it.
    fn format(&self, node: usize) -> Result<()> {
        let (from, to) = (self.prepared.join("formatted"), self.folder(node).join("log"));
        std::fs::create_dir_all(&to)?;
        std::fs::copy(from.join("bootstrap.checkpoint"), to.join("bootstrap.checkpoint"))?;
        let template = std::fs::read_to_string(from.join("meta.properties"))?;
        let directory = uuid_in_base64();
        let own = template.lines().map(|line| match line.split_once('=') {
            Some(("node.id", _)) => format!("node.id={node}\n"),
            Some(("directory.id", _)) => format!("directory.id={directory}\n"),
            _ => format!("{line}\n"),
        });
        std::fs::write(to.join("meta.properties"), own.collect::<String>())?;
        std::fs::write(self.folder(node).join("server.properties"), self.properties(node)?)?;
        std::fs::write(self.room.path().join("log4j2.properties"), LOGGING)?;
        Ok(())
    }

    fn properties(&self, node: usize) -> Result<String> {
        let ports = &self.nodes.get(node - 1).context("no such node")?.ports;
        let voters: Vec<String> =
            self.nodes.iter().enumerate().map(|(i, n)| format!("{}@127.0.0.1:{}", i + 1, n.ports.controller)).collect();
        let mut listeners = vec![("CLEAR", ports.clear), ("SASL", ports.sasl), ("SASLTLS", ports.sasl_tls), ("MTLS", ports.mtls)];
        let mut advertised = listeners.clone();
        if let Some((inner, seen)) = ports.proxied {
            listeners.push(("PROXIED", inner));
            advertised.push(("PROXIED", seen));
        }
        listeners.push(("CONTROLLER", ports.controller));
        let text = |list: &[(&str, u16)]| {
            let all: Vec<String> = list.iter().map(|(name, port)| format!("{name}://127.0.0.1:{port}")).collect();
            all.join(",")
        };
        let (replicas, in_sync) = if self.nodes.len() == 3 { ("3", "2") } else { ("1", "1") };
        Ok([
            ("@NODE@", node.to_string()),
            ("@VOTERS@", voters.join(",")),
            ("@LISTENERS@", text(&listeners)),
            ("@ADVERTISED@", text(&advertised)),
            ("@TLS@", self.prepared.join("tls").display().to_string()),
            ("@DATA@", self.folder(node).join("log").display().to_string()),
            ("@REPLICAS@", replicas.into()),
            ("@MIN_INSYNC@", in_sync.into()),
        ]
        .iter()
        .fold(TEMPLATE.to_string(), |text, (name, value)| text.replace(name, value)))
    }

    fn launch(&self, node: usize) -> Result<()> {
        let dir = self.folder(node);
        let out = File::options().create(true).append(true).open(dir.join("out"))?;
        let mut java = Command::new("java");
        // The first compiler alone: half the CPU of a start, and a test's broker does not live long enough for the second.
        let levels = if self.for_load { "-XX:TieredStopAtLevel=4" } else { "-XX:TieredStopAtLevel=1" };
        java.args(["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", levels, "-Xshare:auto", "-Xlog:disable"]);
        java.arg(format!("-XX:SharedArchiveFile={}", self.prepared.join("classes.jsa").display()));
        java.arg(format!("-Dlog4j2.configurationFile={}", self.room.path().join("log4j2.properties").display()));
        java.arg("-cp").arg(self.prepared.join("libs/*")).arg("kafka.Kafka").arg(dir.join("server.properties"));
        java.current_dir(&dir).stdout(out.try_clone()?).stderr(out);
        *self.process(node)? = Some(Process::start(&mut java)?);
        Ok(())
    }

    /// Waits until every node that runs has joined the cluster and serves it.
    async fn ready(&self) -> Result<()> {
        let config = self.client();
        eventually("Kafka is ready", READY_WITHIN, || async {
            let running = self.running()?;
            let config = config.clone();
            let known = tokio::task::spawn_blocking(move || -> Result<usize> {
                let admin: AdminClient<DefaultClientContext> = config.create()?;
                Ok(admin.inner().fetch_metadata(None, Duration::from_secs(2))?.brokers().len())
            });
            let known = known.await??;
            ensure!(known == running, "{known} of {running} nodes have joined");
            Ok(())
        })
        .await
    }

    /// How many nodes run; an error with its log if one has ended by itself.
    fn running(&self) -> Result<usize> {
        let mut running = 0;
        for node in 1..=self.nodes.len() {
            if let Some(process) = self.process(node)?.as_mut() {
                if let Some(status) = process.ended()? {
                    bail!("Kafka node {node} ended ({status}): {}", std::fs::read_to_string(self.folder(node).join("out"))?);
                }
                running += 1;
            }
        }
        Ok(running)
    }
}

fn read_all(mut config: ClientConfig, topic: &str) -> Result<Vec<OwnedMessage>> {
    const WITHIN: Duration = Duration::from_secs(30);
    let reader: BaseConsumer = config.set("group.id", "nobody").set("enable.auto.commit", "false").create()?;
    let metadata = reader.fetch_metadata(Some(topic), WITHIN)?;
    let partitions = metadata.topics().first().context("no such topic")?.partitions().len();
    let (mut assigned, mut left) = (TopicPartitionList::new(), HashMap::new());
    for number in 0..i32::try_from(partitions)? {
        let (low, high) = reader.fetch_watermarks(topic, number, WITHIN)?;
        if low < high {
            assigned.add_partition_offset(topic, number, Offset::Offset(low))?;
            left.insert(number, high);
        }
    }
    reader.assign(&assigned)?;
    let mut messages = Vec::new();
    while !left.is_empty() {
        let message = reader.poll(WITHIN).context("the broker sends no more, and has more")??;
        if left.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            left.remove(&message.partition());
        }
        messages.push(message.detach());
    }
    Ok(messages)
}

impl Ports {
    fn pick(proxied: Option<(u16, u16)>) -> Result<Ports> {
        Ok(Ports { controller: free_port()?, clear: free_port()?, sasl: free_port()?, sasl_tls: free_port()?, mtls: free_port()?, proxied })
    }
}

/// An id as Kafka writes them: 16 bytes in URL base64 without padding, which is 22 characters of which the last holds two bits.
fn uuid_in_base64() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(*uuid::Uuid::new_v4().as_bytes());
    let sextet = |i: u32| if i < 21 { (bits >> (122 - 6 * i)) & 63 } else { (bits & 3) << 4 };
    (0..22).map(|i| char::from(ALPHABET[sextet(i) as usize])).collect()
}
