//! A Service: one address for all pods that are ready, connection by connection.

use crate::bed::free_port;
use anyhow::Result;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub struct Service {
    port: u16,
    ready: Ready,
    accepting: JoinHandle<()>,
}

/// The ports of the pods that are ready.
#[derive(Clone, Default)]
pub struct Ready(Arc<Mutex<BTreeSet<u16>>>);

impl Ready {
    pub fn set(&self, port: u16, ready: bool) {
        let _ = if ready { self.ports().insert(port) } else { self.ports().remove(&port) };
    }

    fn ports(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    pub async fn start() -> Result<Service> {
        let port = free_port()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let ready = Ready::default();
        let accepting = tokio::spawn(accept(listener, ready.clone()));
        Ok(Service { port, ready, accepting })
    }

    pub fn ready(&self) -> Ready {
        self.ready.clone()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, ready: Ready) {
    let next = AtomicUsize::new(0);
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let ports: Vec<u16> = ready.ports().iter().copied().collect();
        let Some(port) = ports.get(next.fetch_add(1, Ordering::Relaxed) % ports.len().max(1)).copied() else { continue };
        connections.spawn(async move {
            if let Ok(mut pod) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                let _ = (client.set_nodelay(true), pod.set_nodelay(true));
                let _ = copy_bidirectional(&mut client, &mut pod).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
