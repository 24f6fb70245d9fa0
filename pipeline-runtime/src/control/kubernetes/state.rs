//! Where the state of the switch comes from: the ConfigMap, read so that it is the latest, and watched; and the same one as a mounted
//! file, which brings the news when the API server is away.

use super::member::within;
use crds::switch::names::{STATE_DIR, STATE_FILE, state_config_map};
use crds::switch::{Source, SwitchState};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How soon a changed file is noticed.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Origin {
    pub states: Api<ConfigMap>,
    pub pipeline: String,
}

impl Origin {
    /// The latest state there is. None: the operator has not made one yet.
    pub async fn read(&self) -> Result<Option<Arc<SwitchState>>, String> {
        let name = state_config_map(&self.pipeline);
        let Some(map) = within(self.states.get_opt(&name)).await? else { return Ok(None) };
        state_of(&map).ok_or_else(|| format!("ConfigMap {name} has no {STATE_FILE}"))?.map(Some)
    }

    /// Hands on every state that the API server tells of. Runs until dropped.
    pub async fn watch(&self, told: impl Fn(Source, Arc<SwitchState>)) {
        let name = state_config_map(&self.pipeline);
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = std::pin::pin!(watcher(self.states.clone(), only).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => match state_of(&map) {
                    Some(Ok(state)) => told(Source::Watch, state),
                    Some(Err(why)) => tracing::error!("{why}"),
                    None => tracing::error!("ConfigMap {name} has no {STATE_FILE}"),
                },
                // The operator makes it again, from what it knows; until then the last one holds.
                Ok(watcher::Event::Delete(_)) => tracing::warn!("ConfigMap {name} was deleted; the last state of it holds"),
                Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the watch of ConfigMap {name} broke off and is taken up again"),
            }
        }
    }
}

/// Hands on what the mounted file brings. Runs until dropped.
pub async fn follow_file(file: PathBuf, told: impl Fn(Source, Arc<SwitchState>)) {
    let mut seen = Vec::new();
    loop {
        if let Ok(now) = tokio::fs::read(&file).await
            && now != seen
        {
            if let Some(state) = state_in(&now) {
                told(Source::File, state);
            }
            seen = now;
        }
        sleep(LOOK).await;
    }
}

/// What the mounted file says just now: no place to begin, but for a build that drops that rule.
pub async fn read_file(file: &Path) -> Option<Arc<SwitchState>> {
    state_in(&tokio::fs::read(file).await.ok()?)
}

/// None: half written it is no JSON, and whole it comes again.
fn state_in(file: &[u8]) -> Option<Arc<SwitchState>> {
    SwitchState::parse(&String::from_utf8_lossy(file)).ok().map(Arc::new)
}

pub fn mounted() -> PathBuf {
    Path::new(STATE_DIR).join(STATE_FILE)
}

fn state_of(map: &ConfigMap) -> Option<Result<Arc<SwitchState>, String>> {
    let text = map.data.as_ref()?.get(STATE_FILE)?;
    Some(SwitchState::parse(text).map(Arc::new).map_err(|error| error.to_string()))
}
