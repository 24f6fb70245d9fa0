//! The credentials of the broker: a client keeps those that it was made with, so that a process ends when they are rotated, and
//! comes back with the new ones.

use crate::config::{Secrets, follow};
use crds::pipeline::{Backend, SecretKeyRef};
use rand::Rng;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often mounted files are read again.
pub const EVERY: Duration = Duration::from_secs(10);
/// Not all pods at once: each waits a random part of this.
pub const SPREAD: Duration = Duration::from_secs(30);

/// Ends when a credential of the backend has changed, and this process should come back with it.
pub async fn rotated(backend: &Backend, secrets: &Secrets, every: Duration, spread: Duration) {
    let keys: Vec<SecretKeyRef> = backend.secret_keys().into_iter().cloned().collect();
    let read = || keys.iter().map(|key| secrets.value(key)).collect::<Result<Vec<String>, _>>().map_err(|e| e.to_string());
    let first = match read() {
        Ok(first) if !first.is_empty() => first,
        // Without any there is nothing to follow; what the client was made with a moment ago can be read.
        _ => return std::future::pending().await,
    };
    let (changed, mut heard) = mpsc::channel(1);
    let take_up = |_: &Vec<String>| changed.try_send(()).map_err(|e| e.to_string());
    tokio::select! {
        () = follow(every, first, read, take_up) => {}
        _ = heard.recv() => {}
    }
    let pause = spread.mul_f64(rand::rng().random_range(0.0..1.0));
    tracing::warn!(backend = %backend.name, "the credentials of the broker have changed: this process ends in {pause:?}, to come back with the new ones");
    tokio::time::sleep(pause).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[tokio::test]
    async fn it_ends_once_the_mounted_password_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("broker")).unwrap();
        let password = folder.path().join("broker/password");
        std::fs::write(&password, "old").unwrap();
        let secrets = Secrets::new(folder.path(), Environment::default());
        let backend: Backend = serde_json::from_value(serde_json::json!({
            "name": "kafka",
            "kafka": {"bootstrapServers": "k:9092", "auth": {"plain": {"username": "u", "passwordSecretRef": {"name": "broker", "key": "password"}}}},
        }))
        .unwrap();
        let every = Duration::from_millis(1);
        let mut ended = Box::pin(rotated(&backend, &secrets, every, Duration::ZERO));
        tokio::select! {
            () = &mut ended => panic!("nothing has changed"),
            () = tokio::time::sleep(every * 20) => {}
        }
        std::fs::write(&password, "new").unwrap();
        ended.await;
    }
}
