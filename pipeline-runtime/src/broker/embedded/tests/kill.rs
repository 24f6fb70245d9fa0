//! The process is killed while it writes: what it has acknowledged is there afterwards.

use super::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Set in the process that is killed: the file, and the number of its life.
const STATE: &str = "EMBEDDED_BROKER_KILL_TEST";
const LIVES: usize = 4;
const PUBLISHERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acked_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let mut acked: BTreeMap<(i32, i64), String> = BTreeMap::new();
    let mut committed: BTreeMap<i32, i64> = BTreeMap::new();
    for life in 0..LIVES {
        for line in lines_until_killed(&file, life, 500 * (life + 1)).await {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["acked", partition, offset, payload] => {
                    let at = (partition.parse().unwrap(), offset.parse().unwrap());
                    assert_eq!(acked.insert(at, payload.into()), None, "position {at:?} was given twice");
                }
                ["committed", partition, next] => {
                    committed.insert(partition.parse().unwrap(), next.parse().unwrap());
                }
                _ => {} // what the test harness prints
            }
        }
        check(&file, &acked, &committed).await;
    }
    assert!(acked.len() > 1000 && !committed.is_empty(), "{} acks, commits {committed:?}", acked.len());
    println!("{} acked messages survived {LIVES} kills", acked.len());
}

async fn check(file: &std::path::Path, acked: &BTreeMap<(i32, i64), String>, committed: &BTreeMap<i32, i64>) {
    let (embedded, broker) = with_topic(&Place::File(file.into()), 3).await;
    let ends: i64 = embedded.ends("t").await.unwrap().iter().map(|end| end.offset).sum();
    let mut reader = Reader::open(&broker, &"t".into(), ConsumerMode::All).await;
    reader.read(ends as usize).await;
    let mut found: BTreeMap<(i32, i64), String> = BTreeMap::new();
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for (message, payload) in reader.seen.iter().zip(reader.payloads()) {
        let (publisher, n) = payload.rsplit_once('-').unwrap();
        let n: usize = n.parse().unwrap();
        let before = last.insert(publisher.into(), n);
        assert!(before.is_none_or(|before| before + 1 == n), "{payload} came after {before:?}");
        found.insert((message.at.partition.number, message.at.offset), payload);
    }
    let lost: Vec<_> = acked.iter().filter(|(at, payload)| found.get(at) != Some(payload)).collect();
    assert!(lost.is_empty(), "{} of {} acked messages are gone: {lost:?}", lost.len(), acked.len());
    let commits: BTreeMap<i32, i64> =
        embedded.committed("g", &["t".into()]).await.unwrap().iter().map(|c| (c.next.partition.number, c.next.offset)).collect();
    assert!(committed.iter().all(|(partition, next)| commits.get(partition) >= Some(next)), "acked {committed:?}, found {commits:?}");
    embedded.close().await;
}

/// Starts the writer below in a process of its own, and kills it after so many lines.
async fn lines_until_killed(file: &std::path::Path, life: usize, count: usize) -> Vec<String> {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "broker::embedded::tests::kill::the_one_that_is_killed", "--nocapture"])
        .env(STATE, format!("{life}:{}", file.display()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    let mut line = String::new();
    while out.read_line(&mut line).await.unwrap() > 0 {
        if !line.ends_with('\n') {
            break; // cut off by the kill
        }
        lines.push(line.trim_end().to_string());
        line.clear();
        if lines.len() == count {
            child.start_kill().unwrap();
        }
    }
    child.wait().await.unwrap();
    assert!(lines.len() >= count, "the process ended by itself after {} lines: {:?}", lines.len(), lines.last());
    lines
}

/// No test by itself: publishes, reads and commits until it is killed, and prints every ack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_is_killed() {
    let Ok(state) = std::env::var(STATE) else { return };
    let (life, file) = state.split_once(':').unwrap();
    let (embedded, broker) = with_topic(&Place::File(file.into()), 3).await;
    for publisher in 0..PUBLISHERS {
        let (embedded, life) = (embedded.clone(), life.to_string());
        tokio::spawn(async move {
            for n in 0.. {
                let payload = format!("{life}.{publisher}-{n}");
                let message = Outgoing { target: Target::Key, key: Some(format!("{publisher}").into()), ..to_t(0, payload.clone()) };
                let at = publish(&embedded, message).await.unwrap();
                writeln!(std::io::stdout(), "acked {} {} {payload}", at.partition.number, at.offset).unwrap();
            }
        });
    }
    let mut reader = Reader::join(&broker, &"t".into(), "g").await;
    loop {
        let happening = reader.consumer.next().await;
        reader.take(happening).await;
        let commits: Vec<_> = reader.owned.keys().filter_map(|partition| reader.commit_for(partition, "")).collect();
        reader.consumer.commit(&commits).await.unwrap();
        for commit in commits {
            writeln!(std::io::stdout(), "committed {} {}", commit.next.partition.number, commit.next.offset).unwrap();
        }
    }
}
