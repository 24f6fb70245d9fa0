//! `/healthz`, `/readyz` and `/metrics`. A standby is ready: it is ready to take over.

use crate::metrics::Metrics;
use axum::Router;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Whoever can reach the port must not take the file descriptors that watches need: beyond so many the kernel lets them wait.
const CONNECTIONS: usize = 256;
/// From the first byte of a request to the last of its answer, and nothing comes after it: who asks now and then keeps no place.
const WITHIN: Duration = Duration::from_secs(10);

pub async fn serve(port: u16, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
    answer(listener, metrics, WITHIN).await
}

async fn answer(listener: TcpListener, metrics: Arc<Metrics>, within: Duration) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(async || "ready\n"))
        .route("/metrics", get(async move || metrics.text()));
    let mut http = http1::Builder::new();
    http.keep_alive(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of file descriptors, mostly: at once again would only burn the processor.
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // One that breaks or is too slow is the client's affair.
            let _ = tokio::time::timeout(within, connection).await;
            drop(place);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn those_who_ask_nothing_keep_no_place_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(answer(listener, Arc::default(), Duration::from_secs(2)));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET /healthz HTTP/1.1\r\nhost: operator\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let waiting = tokio::time::timeout(Duration::from_millis(500), late.read_to_string(&mut answer)).await;
        assert!(waiting.is_err(), "there is no place: {answer}");
        late.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
        serving.abort();
    }
}
