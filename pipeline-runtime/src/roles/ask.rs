//! `switch`: asks a pipeline that runs for another backend, over its API, and follows how it goes.

use super::greeting::DEV_KEY;
use super::say;
use crate::api::keys::HEADER;
use crate::config::Environment;
use crate::http;
use anyhow::{Context, bail};
use serde_json::{Value as Json, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct SwitchFlags {
    /// The backend to go to: a name of spec.backends.
    pub backend: String,
    /// Where the pipeline's API is.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// How many seconds the switch may take before this command gives up following it; it goes on all the same.
    #[arg(long, default_value_t = 60)]
    pub wait: u64,
}

pub async fn run(flags: SwitchFlags) -> anyhow::Result<()> {
    let asker = Asker::new(&flags.url, &Environment::here(Path::new(".")).map_err(anyhow::Error::msg)?)?;
    let path = "/admin/backend-mode";
    let until = Instant::now() + Duration::from_secs(flags.wait);
    let asked = asker.post(path, &json!({"backend": flags.backend})).await?;
    say(format!("asked for {}; orders are written to {}", flags.backend, text(&asked, "backend")))?;
    let mut said = String::new();
    loop {
        let now = asker.get(path).await?;
        if now["requested"]["backend"] != flags.backend.as_str() {
            bail!("{} asks for {} now: this request is over", text(&now["requested"], "by"), text(&now["requested"], "backend"));
        }
        let there = now["backend"] == flags.backend.as_str();
        let last = &now["lastSwitch"];
        let failed = !there && now["phase"] == "Steady" && last["to"] == flags.backend.as_str();
        let how = match (there, now["draining"] == true) {
            (true, false) => format!("orders are written to {0} and read from it", flags.backend),
            (true, true) => format!("orders are written to {}; what is left on {} is read first", flags.backend, text(&now, "reading")),
            (false, _) if failed && matches!(last["outcome"].as_str(), Some("Aborted" | "Refused")) => {
                format!("not yet, it is tried again: {}", text(last, "message"))
            }
            (false, _) => format!("orders are written to {} still ({})", text(&now, "backend"), text(&now, "phase")),
        };
        if how != said {
            say(&how)?;
            said = how;
        }
        if there && now["draining"] == false {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!("the switch is not done within {} s; it goes on, see GET {}", flags.wait, asker.place(path));
        }
        sleep(LOOK).await;
    }
}

/// Asks the API of a pipeline that runs, with an administrator's key.
pub(super) struct Asker {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Asker {
    pub fn new(url: &str, environment: &Environment) -> anyhow::Result<Asker> {
        let key = environment.get("ADMIN_KEY").or(environment.get("API_KEY")).unwrap_or(DEV_KEY).to_owned();
        let http = http::client().timeout(ANSWER_WITHIN).build()?;
        Ok(Asker { http, url: url.trim_end_matches('/').to_owned(), key })
    }

    pub fn place(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Json> {
        let place = self.place(path);
        self.answer(self.http.get(&place), &place).await
    }

    pub async fn post(&self, path: &str, body: &Json) -> anyhow::Result<Json> {
        let place = self.place(path);
        self.answer(self.http.post(&place).json(body), &place).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder, place: &str) -> anyhow::Result<Json> {
        let answer = request.header(HEADER, &self.key).send().await.with_context(|| {
            format!(
                "{place} gives no answer: does the pipeline run there? Else say where with --url; to a cluster leads kubectl port-forward"
            )
        })?;
        let (status, body) = (answer.status(), answer.text().await?);
        let json: Json = serde_json::from_str(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(json);
        }
        let hint = if status.as_u16() == 401 { " (the key is taken from ADMIN_KEY, else API_KEY)" } else { "" };
        bail!("{place} answers {status}: {}{hint}", json["message"].as_str().unwrap_or(&body))
    }
}

pub(super) fn text<'j>(json: &'j Json, field: &str) -> &'j str {
    json[field].as_str().unwrap_or("-")
}
