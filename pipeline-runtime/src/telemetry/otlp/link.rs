//! The way to the collector: each request once, or again until it is taken, and one line when the collector goes and when it comes.

use crate::http;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What cannot be delivered for so long makes room for what is newer.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub struct Link {
    endpoint: String,
    client: reqwest::Client,
    away: AtomicBool,
    stop: watch::Receiver<bool>,
}

enum Answer {
    Taken,
    /// It will never take this.
    Refused(String),
    Away(String),
}

impl Link {
    pub fn new(endpoint: &str, stop: watch::Receiver<bool>) -> Result<Link, String> {
        let client = http::client()
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(|error| format!("the HTTP client for telemetry cannot be made: {error}"))?;
        Ok(Link { endpoint: endpoint.trim_end_matches('/').to_owned(), client, away: AtomicBool::new(false), stop })
    }

    /// Again and again for a while. False: it was not taken, and is given up.
    pub async fn deliver(&self, path: &str, body: Vec<u8>) -> bool {
        let body = bytes::Bytes::from(body);
        let until = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.send(path, body.clone()).await {
                Answer::Taken => return true,
                Answer::Refused(_) => return false,
                Answer::Away(_) if *self.stop.borrow() || Instant::now() + pause > until => return false,
                Answer::Away(_) => {}
            }
            let mut stop = self.stop.clone();
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => {} // one more try
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub async fn try_once(&self, path: &str, body: Vec<u8>) {
        self.send(path, body.into()).await;
    }

    async fn send(&self, path: &str, body: bytes::Bytes) -> Answer {
        let answer = self.ask(path, body).await;
        match &answer {
            Answer::Taken if self.away.swap(false, Ordering::Relaxed) => {
                tracing::info!(collector = self.endpoint, "the collector takes telemetry again");
            }
            Answer::Taken => {}
            Answer::Refused(reason) | Answer::Away(reason) if !self.away.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    collector = self.endpoint,
                    reason,
                    "the collector does not take telemetry: orders go on, and what does not fit into the queue is dropped and counted \
                     (telemetry_dropped_total). It is sent as OTLP over HTTP, for which collectors mostly listen on port 4318"
                );
            }
            Answer::Refused(_) | Answer::Away(_) => {}
        }
        answer
    }

    async fn ask(&self, path: &str, body: bytes::Bytes) -> Answer {
        let request = self.client.post(format!("{}/{path}", self.endpoint)).header("content-type", "application/x-protobuf").body(body);
        match request.send().await {
            Ok(response) if response.status().is_success() => Answer::Taken,
            Ok(response) => {
                let status = response.status();
                let reason = format!("it answers {status} to {path}");
                let again = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
                if again { Answer::Away(reason) } else { Answer::Refused(reason) }
            }
            Err(error) => Answer::Away(http::causes(&error)),
        }
    }
}
