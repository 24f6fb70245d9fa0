#![forbid(unsafe_code)]

use anyhow::{Context as _, bail};
use clap::Parser;
use kube::config::KubeConfigOptions;
use operator::plugin::{self, Arguments};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match ask(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        // A sentence, whatever RUST_BACKTRACE says: what a person has mistyped needs no stack.
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(arguments: Arguments) -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("a TLS provider is installed already");
    }
    let options = KubeConfigOptions { context: arguments.context.clone(), ..Default::default() };
    let config = kube::Config::from_kubeconfig(&options).await.context("finding the API server by the kubeconfig")?;
    plugin::run(kube::Client::try_from(config)?, arguments).await
}
