//! The HTTP server: how many connections, how long each may take over its headers and may leave its answer, and how it ends.

use super::taken::TakenWithin;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Beyond it nobody is accepted: the kernel lets them wait.
    pub connections: usize,
    /// From the first moment that a request may come to the end of its headers: also how long an idle connection is kept.
    pub headers_within: Duration,
    /// How long nothing of an answer may be taken before its connection is given up. The kernel lets a writer go on when a third of what it
    /// keeps for a connection is free: a part of that size is what has to be taken.
    pub taken_within: Duration,
    /// Whether further requests may come on a connection. Where places are few, whoever asks now and then would keep one for ever.
    pub keep_alive: bool,
    /// How long requests may take to end after the server was told to.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 4000,
            headers_within: Duration::from_secs(10),
            taken_within: Duration::from_secs(20),
            keep_alive: true,
            grace: Duration::from_secs(15),
        }
    }
}

/// A connection's read buffer: also the most that its headers may take. 4000 of them fit into the memory of a small pod only when small.
const READ_BUFFER: usize = 16 * 1024;

/// Serves until `shutdown` ends; then accepts nobody, lets what is in flight end, and returns how many connections had to be cut off.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: impl Future<Output = ()>) -> usize {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.headers_within).max_buf_size(READ_BUFFER).keep_alive(limits.keep_alive);
    let room = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let accepting = async {
        loop {
            let (stream, place) = accept(&listener, &room).await;
            let stream = TakenWithin::new(stream, limits.taken_within);
            let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
            let watched = graceful.watch(connection);
            tokio::spawn(async move {
                // A connection that breaks is the client's affair.
                if let Err(e) = watched.await {
                    tracing::trace!("connection ended: {e}");
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    drop(listener);
    let _ = tokio::time::timeout(limits.grace, graceful.shutdown()).await;
    let left = limits.connections - room.available_permits();
    if left > 0 {
        tracing::warn!(left, "connections were cut off: their requests took longer than the {:?} of grace", limits.grace);
    }
    left
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        // Never closed, so that this cannot fail; if it did, nobody would be accepted.
        let Ok(place) = room.clone().acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                return (stream, place);
            }
            // Out of file descriptors, mostly: at once again would only burn the processor.
            Err(e) => {
                tracing::warn!("a connection cannot be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
