#![forbid(unsafe_code)]

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use kube::runtime::events::{Recorder, Reporter};
use operator::context::{Context, Failures};
use operator::controller::Call;
use operator::leader::Election;
use operator::metrics::Metrics;
use operator::switch::Board;
use operator::{controller, health, names};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const DEFAULT_IMAGE: &str = concat!("ghcr.io/orderpipeline/pipeline-runtime:", env!("CARGO_PKG_VERSION"));
/// What is under way at SIGTERM may go on for so long; less than the 30 s that a pod has.
const GRACE: Duration = Duration::from_secs(20);

/// Runs OrderPipelines on Kubernetes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Watches OrderPipelines until SIGTERM. The default.
    Run(Run),
}

#[derive(clap::Args)]
struct Run {
    /// Look after the pipelines of this namespace only. Default: all.
    #[arg(long, env = "WATCH_NAMESPACE")]
    namespace: Option<String>,
    /// The runtime image of pipelines that name none.
    #[arg(long, env = "RUNTIME_IMAGE", default_value = DEFAULT_IMAGE)]
    image: String,
    /// Port of /healthz, /readyz and /metrics.
    #[arg(long, env = "HEALTH_PORT", default_value_t = 8081)]
    health_port: u16,
    /// Seconds without a sign of life after which another operator takes over.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=300))]
    lease_seconds: u64,
    /// Namespace of the Lease. Default: the operator's own.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    run(match arguments.command {
        Some(Command::Run(run)) => run,
        None => arguments.run,
    })
    .await
}

async fn run(run: Run) -> anyhow::Result<()> {
    let client = client().await?;
    let metrics = Arc::new(Metrics::default());
    // The pod's name is the host's; the number tells processes of one host apart.
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "operator".into());
    let election = Arc::new(Election {
        leases: match &run.lease_namespace {
            Some(namespace) => kube::Api::namespaced(client.clone(), namespace),
            None => kube::Api::default_namespaced(client.clone()),
        },
        identity: format!("{host}-{}", std::process::id()),
        duration: Duration::from_secs(run.lease_seconds),
    });
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut stop = std::pin::pin!(async {
        tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
    });
    let mut health = tokio::spawn(health::serve(run.health_port, metrics.clone()));

    tracing::info!(identity = election.identity, "waiting for the Lease");
    tokio::select! {
        () = election.win() => (),
        () = &mut stop => return Ok(()),
        ended = &mut health => bail!("the health server ended: {ended:?}"),
    }
    metrics.leads();
    tracing::info!(namespace = run.namespace.as_deref().unwrap_or("all"), image = run.image, "leading");

    let (switches, board) = Board::new();
    let (call, calls) = Call::new();
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(host) }),
        client,
        default_image: run.image,
        failures: Failures::default(),
        metrics,
        switches: switches.clone(),
        call,
        started: Instant::now(),
    });
    let mut switching = tokio::spawn(board.run(context.clone(), run.namespace.clone()));
    let (ask_to_stop, asked) = tokio::sync::oneshot::channel::<()>();
    let asked = async { asked.await.unwrap_or(()) };
    let mut controller = tokio::spawn(controller::run(
        context,
        run.namespace,
        calls,
        futures::FutureExt::shared(Box::pin(asked) as futures::future::BoxFuture<'static, ()>),
    ));
    let mut keeping = {
        let election = election.clone();
        tokio::spawn(async move { election.hold().await })
    };
    // Each of these tasks is joined: none may end in silence while the process looks alive.
    tokio::select! {
        () = &mut stop => (),
        ended = &mut controller => bail!("the controller ended: {ended:?}"),
        ended = &mut switching => bail!("nobody switches pipelines any more: {ended:?}"),
        ended = &mut keeping => {
            ended.context("nobody keeps the Lease any more")?;
            bail!("the Lease could not be kept: another operator may lead now, so this one ends")
        }
        ended = &mut health => bail!("the health server ended: {ended:?}"),
    }
    tracing::info!("stopping");
    let _ = ask_to_stop.send(());
    // Both at once: a switch that cannot be finished now is taken back, so that no order waits for the next operator.
    let ended = tokio::time::timeout(GRACE, async {
        switches.leave().await;
        tokio::join!(&mut switching, &mut controller)
    });
    if ended.await.is_err() {
        tracing::warn!("what was under way did not end in time; the next operator takes it up");
    }
    keeping.abort();
    let _ = tokio::time::timeout(Duration::from_secs(5), election.release()).await;
    Ok(())
}

async fn client() -> anyhow::Result<kube::Client> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("a TLS provider is installed already");
    }
    let config = kube::Config::infer().await.context("finding the API server: neither in a pod nor with a kubeconfig")?;
    Ok(kube::Client::try_from(config)?)
}
