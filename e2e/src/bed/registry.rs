//! A throw-away Apicurio Registry, spoken to as Confluent's is. What it holds is in memory: it is gone after a kill.

use super::{Process, READY_WITHIN, Room, eventually, free_port, prepared};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub struct Registry {
    process: Process,
    room: Arc<Room>,
    port: u16,
}

impl Registry {
    /// Ready, and with the compatibility that Confluent's has by default.
    pub async fn start() -> Result<Registry> {
        Registry::start_on(free_port()?).await
    }

    /// On a port that is known before.
    pub async fn start_on(port: u16) -> Result<Registry> {
        let (prepared, room, management) = (prepared("registry")?, Room::new("registry")?, free_port()?);
        let process = launch(&prepared, &room, port, management)?;
        let mut registry = Registry { process, room, port };
        let health = format!("http://127.0.0.1:{management}/health/ready");
        let http = crate::http(Duration::from_secs(2));
        eventually("the schema registry is ready", READY_WITHIN, || {
            let (ended, get) = (registry.process.ended(), http.get(&health).send());
            async move {
                ensure!(ended?.is_none(), "it has ended");
                Ok(get.await?.error_for_status()?)
            }
        })
        .await
        .with_context(|| registry.log())?;
        registry.set_compatibility("BACKWARD").await?;
        Ok(registry)
    }

    /// For the document.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Of every subject.
    pub async fn set_compatibility(&self, level: &str) -> Result<()> {
        let put = crate::http(Duration::from_secs(30)).put(format!("{}/config", self.url()));
        put.json(&json!({"compatibility": level})).send().await?.error_for_status()?;
        Ok(())
    }

    /// As another writer does. Returns the schema's number.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let post = crate::http(Duration::from_secs(30)).post(format!("{}/subjects/{subject}/versions", self.url()));
        let answer: Json = post.json(&json!({"schema": schema})).send().await?.json().await?;
        let id = answer["id"].as_u64().with_context(|| format!("not registered: {answer}"))?;
        Ok(u32::try_from(id)?)
    }

    /// The numbers of a subject's versions.
    pub async fn versions(&self, subject: &str) -> Result<Vec<u64>> {
        let get = crate::http(Duration::from_secs(30)).get(format!("{}/subjects/{subject}/versions", self.url()));
        Ok(get.send().await?.error_for_status()?.json().await?)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.room.path().join("registry.log")).unwrap_or_default()
    }
}

fn launch(prepared: &std::path::Path, room: &Room, port: u16, management: u16) -> Result<Process> {
    let log = File::options().create(true).append(true).open(room.path().join("registry.log"))?;
    let app: PathBuf = prepared.join("app/quarkus-run.jar");
    let mut java = Command::new(prepared.join("java"));
    java.args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1"]);
    java.args(["-Dquarkus.management.host=127.0.0.1", "-Dquarkus.log.level=WARN"]);
    java.arg(format!("-Dquarkus.http.port={port}")).arg(format!("-Dquarkus.management.port={management}"));
    java.arg("-jar").arg(app).current_dir(room.path()).stdout(log.try_clone()?).stderr(log);
    Process::start(&mut java)
}
