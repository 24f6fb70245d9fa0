//! Takes up a changed configuration file while the process runs.

use crate::contract::Contract;
use arc_swap::ArcSwap;
use crds::runtime_config::RuntimeConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often the file is looked at. The kubelet swaps a mount by renaming a link, which file notifications miss
/// on some file systems; reading a few kilobytes every two seconds costs nothing and misses nothing.
const EVERY: Duration = Duration::from_secs(2);

/// Compiles each new version of the file and puts it in the contract's place. A version that does not compile is
/// refused with a log line, and the last good one goes on. `changed` takes up what else a role uses of it. Runs until dropped.
pub async fn follow(file: PathBuf, contract: Arc<ArcSwap<Contract>>, changed: impl Fn(&RuntimeConfig) -> Result<(), String>) {
    let mut seen = tokio::fs::read(&file).await.unwrap_or_default();
    loop {
        tokio::time::sleep(EVERY).await;
        let Ok(now) = tokio::fs::read(&file).await else {
            continue; // between two versions there may be none for a moment
        };
        if now == seen {
            continue;
        }
        seen = now;
        let taken = super::read(&file).and_then(|config| {
            let new = Contract::compile(&config).map_err(|e| e.to_string())?;
            changed(&config)?;
            contract.store(Arc::new(new));
            Ok(())
        });
        match taken {
            Ok(()) => {
                tracing::info!(file = %file.display(), "events and rules reloaded");
            }
            Err(reason) => {
                tracing::error!(file = %file.display(), reason, "the changed configuration is refused; the last good one goes on")
            }
        }
    }
}
