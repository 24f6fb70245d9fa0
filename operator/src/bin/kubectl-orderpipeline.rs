#![forbid(unsafe_code)]

use anyhow::{Context as _, bail};
use clap::Parser;
use kube::config::KubeConfigOptions;
use operator::plugin::{self, Arguments};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("a TLS provider is installed already");
    }
    let options = KubeConfigOptions { context: arguments.context.clone(), ..Default::default() };
    let config = kube::Config::from_kubeconfig(&options).await.context("finding the API server by the kubeconfig")?;
    plugin::run(kube::Client::try_from(config)?, arguments).await
}
