//! `kubectl orderpipeline`: asks for another broker beside the document, and says how it goes. Whoever may change a pipeline may ask;
//! the request is an annotation, so that it lives in no Git repository and is taken back by none.
//!
//! - `seen`: a pipeline as its status shows it, and what there is to say of it. Pure.

mod seen;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use crds::OrderPipeline;
use crds::member::BackendRequest;
use crds::switch::Stamp;
use crds::switch::names::{ABANDON_ANNOTATION, REQUEST_ANNOTATION};
use futures::StreamExt;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use seen::{End, Seen};
use serde_json::json;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

/// Moves OrderPipelines between their message brokers.
#[derive(Parser)]
#[command(name = "kubectl orderpipeline", bin_name = "kubectl orderpipeline", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Default: that of the kubeconfig's context.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Of the kubeconfig. Default: the current one.
    #[arg(long, global = true)]
    pub context: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Asks for another backend. That rules until spec.backend is changed.
    Switch {
        pipeline: String,
        /// One of spec.backends.
        #[arg(required_unless_present = "abandon_drain", conflicts_with = "abandon_drain")]
        backend: Option<String>,
        /// Workers go on to the next broker although the old one is not drained; what is left there is read later.
        #[arg(long)]
        abandon_drain: bool,
        /// Say how it goes, and end with it: 0 if it is completed.
        #[arg(long)]
        wait: bool,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 600, requires = "wait")]
        timeout: u64,
    },
    /// Where orders are written and read, who has asked for that, and how the last switch went.
    Status { pipeline: String },
}

pub async fn run(client: Client, arguments: Arguments) -> anyhow::Result<()> {
    let namespace = arguments.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let pipelines = Api::namespaced_with(client.clone(), &namespace, &ApiResource::erase::<OrderPipeline>(&()));
    match arguments.command {
        Command::Status { pipeline } => {
            let seen = Seen::of(&get(&pipelines, &pipeline).await?);
            for line in seen.lines() {
                say(&line)?;
            }
            Ok(())
        }
        Command::Switch { pipeline, backend, wait, timeout, .. } => {
            let seen = Seen::of(&get(&pipelines, &pipeline).await?);
            let asked = match &backend {
                Some(backend) => ask(&client, &pipelines, &pipeline, &seen, backend).await?,
                None => abandon(&pipelines, &pipeline, &seen).await?,
            };
            let Some(end) = asked.filter(|_| wait) else { return Ok(()) };
            let waiting = follow(&pipelines, &pipeline, end);
            let Ok(outcome) = tokio::time::timeout(Duration::from_secs(timeout), waiting).await else {
                bail!("not over after {timeout} s; it goes on: kubectl orderpipeline status {pipeline}")
            };
            outcome
        }
    }
}

/// That somebody has read enough, as in `status | head`, is no mistake.
fn say(line: impl Display) -> io::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

async fn get(pipelines: &Api<DynamicObject>, pipeline: &str) -> anyhow::Result<DynamicObject> {
    let found = pipelines.get_opt(pipeline).await.with_context(|| format!("reading OrderPipeline {pipeline}"))?;
    found.with_context(|| format!("there is no OrderPipeline {pipeline} in this namespace (kubectl get orderpipelines -A)"))
}

/// What to wait for; None: there is nothing to ask for.
async fn ask(client: &Client, pipelines: &Api<DynamicObject>, name: &str, seen: &Seen, backend: &str) -> anyhow::Result<Option<End>> {
    let revision = seen.revision_to_ask(backend).map_err(anyhow::Error::msg)?;
    let Some(revision) = revision else {
        say(format!("orders are written to {backend} already, and it is what is asked for"))?;
        return Ok(None);
    };
    let (by, at) = (who(client).await, Timestamp::now().to_string());
    let request = BackendRequest {
        backend: backend.into(),
        by: by.clone(),
        at: at.clone(),
        lineage: Some(seen.lineage().map_err(anyhow::Error::msg)?.to_owned()),
        revision,
    };
    annotate(pipelines, name, REQUEST_ANNOTATION, &serde_json::to_string(&request)?).await?;
    say(format!("{by} has asked for {backend}; that rules until spec.backend is no longer {}", seen.spec_backend))?;
    Ok(Some(End::Written { backend: backend.into(), by, at, revision }))
}

async fn abandon(pipelines: &Api<DynamicObject>, name: &str, seen: &Seen) -> anyhow::Result<Option<End>> {
    let (epoch, backends) = seen.epoch_to_abandon().map_err(anyhow::Error::msg)?;
    let left = Stamp { lineage: seen.lineage().map_err(anyhow::Error::msg)?, epoch };
    annotate(pipelines, name, ABANDON_ANNOTATION, &left.to_string()).await?;
    say(format!(
        "workers leave {backends} as it is; what is left there is read later, as long as spec.backends has it, and what it changes may come late"
    ))?;
    Ok(Some(End::Left { epoch }))
}

async fn annotate(pipelines: &Api<DynamicObject>, name: &str, annotation: &str, value: &str) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {annotation: value}}}));
    let patched = pipelines.patch(name, &PatchParams::default(), &patch).await;
    patched.with_context(|| format!("asking with the annotation {annotation} of OrderPipeline {name}"))?;
    Ok(())
}

/// Whom the API server takes the asker for; an old one does not say.
async fn who(client: &Client) -> String {
    let review = Api::<SelfSubjectReview>::all(client.clone()).create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let user = review.ok().and_then(|review| review.status?.user_info?.username);
    let name = user.or_else(|| std::env::var("USER").ok()).filter(|name| !name.is_empty()).unwrap_or_else(|| "kubectl".into());
    name.chars().take(253).collect()
}

/// Says what changes until it is over.
async fn follow(pipelines: &Api<DynamicObject>, name: &str, end: End) -> anyhow::Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(pipelines.clone(), config).default_backoff());
    let mut said = String::new();
    while let Some(event) = events.next().await {
        let object = match event.with_context(|| format!("watching {} {name}", OrderPipeline::kind(&())))? {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => object,
            watcher::Event::Delete(_) => bail!("{name} was deleted"),
            _ => continue,
        };
        let seen = Seen::of(&object);
        let outcome = seen.outcome(&end);
        let message = seen.switching();
        if !matches!(outcome, Some(Err(_))) && message != said {
            say(&message)?;
            said = message;
        }
        match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => bail!(why),
            None => {}
        }
    }
    bail!("the watch on {name} ended")
}
