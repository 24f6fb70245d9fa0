//! Between the operator and the API server. Other than a proxy it knows what it carries: it keeps some of it waiting, ends watches as the
//! API server does, and tells of members one by one.

use crate::bed::{client_of, free_port};
use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::serve::ListenerExt;
use futures::{StreamExt, stream};
use kube::Client;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What the API server says when a watch has fallen too far behind.
const EXPIRED: &[u8] = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}
"#;

/// What can be kept waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Errand {
    /// The write of a Hold.
    Hold,
    /// What the API server says to that, when it is done.
    HoldAnswer,
    /// Members are listed to watch them: the first page.
    FirstPage,
    /// Every other list of members, and the pages after the first one. While these are kept waiting, a page is one member.
    List,
    /// A watch on members.
    Watch,
    /// What such a watch tells.
    News,
}

pub struct Porter {
    port: u16,
    desk: Arc<Desk>,
    serving: JoinHandle<()>,
}

struct Desk {
    api_server: Client,
    /// What is kept waiting, and whether some of it waits.
    kept: watch::Sender<BTreeMap<Errand, bool>>,
    expired: watch::Sender<()>,
}

/// Such errands wait until this is dropped.
pub struct Kept {
    desk: Arc<Desk>,
    errand: Errand,
}

impl Porter {
    /// Carries in the name of whoever this kubeconfig is for.
    pub async fn start(kubeconfig: &Path) -> Result<Porter> {
        let (kept, expired) = (watch::Sender::default(), watch::Sender::default());
        let desk = Arc::new(Desk { api_server: client_of(kubeconfig).await?, kept, expired });
        let port = free_port()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        let router = Router::new().fallback(carry).with_state(desk.clone());
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Porter { port, desk, serving })
    }

    /// host:port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Keeps such errands waiting.
    pub fn keep(&self, errand: Errand) -> Kept {
        self.desk.kept.send_if_modified(|kept| kept.insert(errand, false).is_none());
        Kept { desk: self.desk.clone(), errand }
    }

    /// Watches on members end, and have to be begun anew.
    pub fn expire(&self) {
        self.desk.expired.send_replace(());
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Kept {
    /// Whether some of it has come within so long.
    pub async fn waits(&self, within: Duration) -> bool {
        let mut kept = self.desk.kept.subscribe();
        timeout(within, kept.wait_for(|kept| kept.get(&self.errand) == Some(&true))).await.is_ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.desk.kept.send_if_modified(|kept| kept.remove(&self.errand).is_some());
    }
}

impl Desk {
    async fn pass(&self, errand: Errand) {
        self.kept.send_if_modified(|kept| kept.get_mut(&errand).is_some_and(|waits| !std::mem::replace(waits, true)));
        let _ = self.kept.subscribe().wait_for(|kept| !kept.contains_key(&errand)).await;
    }
}

type Failed = (StatusCode, String);

fn failed(error: impl std::fmt::Display) -> Failed {
    (StatusCode::BAD_GATEWAY, error.to_string())
}

async fn carry(State(desk): State<Arc<Desk>>, request: Request) -> Result<Response, Failed> {
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(failed)?;
    let errand = errand(&parts, &body);
    if let Some(errand) = errand {
        desk.pass(errand).await;
    }
    if errand == Some(Errand::FirstPage) && desk.kept.borrow().contains_key(&Errand::List) {
        let (all, one) = (parts.uri.to_string(), parts.uri.to_string().replace("limit=500", "limit=1"));
        if all == one {
            return Err(failed(format!("its pages are of another size than they were: {all}")));
        }
        parts.uri = one.parse().map_err(failed)?;
    }
    let expired = desk.expired.subscribe();
    let answer = desk.api_server.send(Request::from_parts(parts, body.into())).await.map_err(failed)?.map(Body::new);
    Ok(match errand {
        Some(Errand::Watch) => answer.map(|news| until_expired(desk, news, expired)),
        Some(Errand::Hold) => {
            desk.pass(Errand::HoldAnswer).await;
            answer
        }
        _ => answer,
    })
}

fn errand(request: &Parts, body: &[u8]) -> Option<Errand> {
    let (path, query) = (request.uri.path(), request.uri.query().unwrap_or_default());
    match request.method {
        Method::PUT if path.contains("/configmaps/") => {
            String::from_utf8_lossy(body).contains(r#"\"phase\":\"Hold\""#).then_some(Errand::Hold)
        }
        Method::GET if !path.ends_with("/pipelinemembers") => None,
        Method::GET if query.contains("watch=") => Some(Errand::Watch),
        Method::GET if query.contains("limit=") && !query.contains("continue=") => Some(Errand::FirstPage),
        Method::GET => Some(Errand::List),
        _ => None,
    }
}

fn until_expired(desk: Arc<Desk>, news: Body, expired: watch::Receiver<()>) -> Body {
    let open = Some((desk, news.into_data_stream(), expired));
    Body::from_stream(stream::unfold(open, |open| async move {
        let (desk, mut news, mut expired) = open?;
        tokio::select! {
            _ = expired.changed() => Some((Ok(Bytes::from_static(EXPIRED)), None)),
            told = news.next() => {
                desk.pass(Errand::News).await;
                Some((told?, Some((desk, news, expired))))
            }
        }
    }))
}
