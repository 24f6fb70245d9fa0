//! Takes up a changed configuration file while the process runs.

use super::Environment;
use crds::runtime_config::RuntimeConfig;
use std::path::PathBuf;
use std::time::Duration;

/// How often the file is looked at. The kubelet swaps a mount by renaming a link, which file notifications miss
/// on some file systems; reading a few kilobytes every two seconds costs nothing and misses nothing.
const EVERY: Duration = Duration::from_secs(2);

/// Hands each new version of the file to `take_up`. A version that it refuses is logged, and the last good one goes on.
/// Runs until dropped.
pub async fn follow(file: PathBuf, environment: Environment, take_up: impl Fn(RuntimeConfig) -> Result<(), String>) {
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
        let taken = super::read(&file).and_then(|mut config| {
            environment.apply(&mut config)?;
            take_up(config)
        });
        match taken {
            Ok(()) => tracing::info!(file = %file.display(), "the changed configuration is taken up"),
            Err(reason) => {
                tracing::error!(file = %file.display(), reason, "the changed configuration is refused; the last good one goes on")
            }
        }
    }
}
