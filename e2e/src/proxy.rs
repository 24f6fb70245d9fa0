//! A TCP proxy on loopback that can misbehave: cut, stalled, slow.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How the way between client and service is just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Every piece of data is held back for so long, in both directions.
    Slow(Duration),
    /// Connections stand and new ones are accepted, but no byte passes.
    Stalled,
    /// Connections are closed, new ones refused.
    Cut,
}

/// The way of all, or of the connections that come from these ports; the others' is open.
#[derive(Clone, Debug)]
struct Ways {
    way: Way,
    only: Option<BTreeSet<u16>>,
}

impl Ways {
    fn of(&self, port: u16) -> Way {
        if self.only.as_ref().is_none_or(|only| only.contains(&port)) { self.way } else { Way::Open }
    }

    fn refuses(&self) -> bool {
        self.only.is_none() && self.way == Way::Cut
    }
}

/// Forwards a port of loopback to a service. Ends when dropped.
pub struct Proxy {
    port: u16,
    ways: Arc<watch::Sender<Ways>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts forwarding to `target` (host:port), which need not be there yet.
    pub async fn start(target: String) -> Result<Proxy> {
        // Another process may take a port between its choice and its use.
        let ports = std::iter::repeat_with(|| super::bed::free_port().and_then(|port| Ok((port, listen(port)?))));
        let (port, listener) = ports.take(5).find_map(Result::ok).context("no port of loopback in five tries")?;
        let ways = Arc::new(watch::Sender::new(Ways { way: Way::Open, only: None }));
        let accepting = tokio::spawn(accept(listener, port, target, ways.clone()));
        Ok(Proxy { port, ways, accepting })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the way; it holds for the connections that stand as well.
    pub fn set(&self, way: Way) {
        self.ways.send_replace(Ways { way, only: None });
    }

    /// Changes the way of the connections that come from these ports; that of all others is open.
    pub fn set_only(&self, ports: BTreeSet<u16>, way: Way) {
        self.ways.send_replace(Ways { way, only: Some(ports) });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?; // connections that were cut linger in TIME_WAIT
    socket.bind((Ipv4Addr::LOCALHOST, port).into()).with_context(|| format!("binding port {port}"))?;
    Ok(socket.listen(1024)?)
}

async fn accept(listener: TcpListener, port: u16, target: String, ways: Arc<watch::Sender<Ways>>) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut changes = ways.subscribe();
    loop {
        let cut = changes.borrow_and_update().refuses();
        if cut {
            listener = None; // a port that nobody listens on refuses
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = listen(port).ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None if cut => std::future::pending().await,
                None => None,
            }
        };
        tokio::select! {
            accepted = accepted => match accepted {
                Some((client, from)) => { connections.spawn(forward(client, target.clone(), Passage(from.port(), ways.subscribe()))); }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = changes.changed() => {}
        }
    }
}

async fn forward(client: TcpStream, target: String, passage: Passage) {
    if passage.clone().passable().await.is_none() {
        return;
    }
    let Ok(service) = TcpStream::connect(&target).await else { return };
    let _ = (client.set_nodelay(true), service.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (service_reads, service_writes) = service.into_split();
    // One side closed is both closed: nothing that is proxied here uses half-open connections.
    tokio::select! {
        _ = copy(client_reads, service_writes, passage.clone()) => {}
        _ = copy(service_reads, client_writes, passage) => {}
    }
}

async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, mut passage: Passage) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        if let Way::Slow(delay) = passage.passable().await? {
            tokio::time::sleep(delay).await;
        }
        to.write_all(buffer.get(..read)?).await.ok()?;
    }
}

/// The way of the connection that comes from this port.
#[derive(Clone)]
struct Passage(u16, watch::Receiver<Ways>);

impl Passage {
    /// Waits while nothing may pass.
    async fn passable(&mut self) -> Option<Way> {
        let Passage(port, ways) = self;
        Some(ways.wait_for(|ways| !matches!(ways.of(*port), Way::Stalled | Way::Cut)).await.ok()?.of(*port))
    }
}
