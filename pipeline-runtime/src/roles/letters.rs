//! `dlq`: the dead letters of a pipeline that runs, over its API: what they are and why, and replaying them.

use super::ask::{Asker, text};
use super::say;
use crate::config::Environment;
use anyhow::{Context, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use crds::pipeline::GoDuration;
use reqwest::Url;
use serde_json::{Map, Value as Json, json};
use std::io;
use std::path::Path;

/// As many as the API replays in one request.
const AT_ONCE: usize = 100;
const REASON_SHOWN: usize = 100;

#[derive(Debug, Args)]
pub struct LetterFlags {
    #[command(subcommand)]
    what: What,
    /// Where the pipeline's API is. Of a cluster: kubectl port-forward service/<pipeline>-api 8080
    #[arg(long, global = true, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print what the API answers, as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The dead letters, the newest first.
    List {
        #[command(flatten)]
        which: Which,
        /// Only those that were replayed.
        #[arg(long, conflicts_with = "open")]
        replayed: bool,
        /// Only those that were never replayed.
        #[arg(long)]
        open: bool,
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Only below this number: it goes on where a list has ended.
        #[arg(long)]
        below: Option<i64>,
    },
    /// All of one: why it failed, its headers and its data.
    Show { id: String },
    /// Write them to their topics again, the oldest first. Each takes effect at most once.
    Replay {
        ids: Vec<String>,
        /// Instead of ids: all that the other flags let through, and were not replayed before.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        #[command(flatten)]
        which: Which,
        /// With --all: also those that were replayed before.
        #[arg(long, requires = "all")]
        again: bool,
        /// With --all: stop after so many.
        #[arg(long, requires = "all")]
        limit: Option<usize>,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Of this topic: the one that the message was on.
    #[arg(long)]
    topic: Option<String>,
    /// Of this type of error: invalid, undecodable, conflict, store, callback, ...
    #[arg(long)]
    error_type: Option<String>,
    /// That failed since: a time (2025-01-31T12:00:00Z), or how long ago (2h).
    #[arg(long)]
    from: Option<String>,
    /// That failed before: likewise.
    #[arg(long)]
    to: Option<String>,
}

impl Which {
    fn fields(&self, now: DateTime<Utc>) -> anyhow::Result<Vec<(&'static str, String)>> {
        let time = |name: &str, given: &Option<String>| given.as_deref().map(|text| time(name, text, now)).transpose();
        let named = [
            ("topic", self.topic.clone()),
            ("errorType", self.error_type.clone()),
            ("from", time("--from", &self.from)?),
            ("to", time("--to", &self.to)?),
        ];
        Ok(named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
    }
}

fn time(flag: &str, text: &str, now: DateTime<Utc>) -> anyhow::Result<String> {
    let ago = GoDuration::from(text).parse().and_then(|ago| now.checked_sub_signed(chrono::Duration::from_std(ago).ok()?));
    let time = ago.or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()));
    let time = time.with_context(|| format!("{flag} {text}: write a time such as 2025-01-31T12:00:00Z, or how long ago, such as 2h"))?;
    Ok(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

pub async fn run(flags: LetterFlags) -> anyhow::Result<()> {
    let asker = Asker::new(&flags.url, &Environment::here(Path::new(".")).map_err(anyhow::Error::msg)?)?;
    match flags.what {
        What::List { which, replayed, open, limit, below } => {
            let mut asked = which.fields(Utc::now())?;
            asked.extend((replayed || open).then(|| ("replayed", replayed.to_string())));
            asked.push(("limit", limit.to_string()));
            asked.extend(below.map(|below| ("below", below.to_string())));
            let page = asker.get(&path("/admin/dead-letters", &asked)?).await?;
            if flags.json { print_json(&page) } else { print_list(&page) }?
        }
        What::Show { id } => {
            let letter = asker.get(&path(&format!("/admin/dead-letters/{}", segment(&id)?), &[])?).await?;
            if flags.json { print_json(&letter) } else { print_letter(&letter) }?
        }
        What::Replay { ids, all, which, again, limit } => {
            let filter = which.fields(Utc::now())?;
            ensure!(
                !ids.is_empty() || all,
                "which ones? name their ids, or say --all, with --topic, --error-type, --from and --to as needed"
            );
            ensure!(ids.is_empty() || filter.is_empty(), "ids say already which ones: leave the other flags out, or the ids");
            return if all {
                replay_all(&asker, &filter, again, limit, flags.json).await
            } else {
                replay_these(&asker, &ids, flags.json).await
            };
        }
    }
    Ok(())
}

/// A path with its query.
fn path(path: &str, query: &[(&str, String)]) -> anyhow::Result<String> {
    let mut url = Url::parse("http://api")?.join(path)?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())))
}

fn segment(id: &str) -> anyhow::Result<&str> {
    ensure!(!id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{id:?} is no id of a dead letter: see dlq list");
    Ok(id)
}

/// What was replayed in all.
#[derive(Default)]
struct Sum {
    replayed: usize,
    skipped: usize,
}

impl Sum {
    fn add(&mut self, answer: &Json, json: bool) -> io::Result<()> {
        let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
        for letter in list("replayed") {
            self.replayed += 1;
            if !json {
                let place = format!("{}/{}/{}", text(&letter, "topic"), letter["partition"], letter["offset"]);
                say(format!("{} replayed: {place}", text(&letter, "id")))?;
            }
        }
        for letter in list("skipped") {
            self.skipped += 1;
            if !json {
                say(format!("{} skipped: {}", text(&letter, "id"), text(&letter, "reason")))?;
            }
        }
        if json { print_json(answer) } else { Ok(()) }
    }

    fn end(&self, json: bool) -> anyhow::Result<()> {
        if !json {
            say(format!("{} replayed, {} skipped", self.replayed, self.skipped))?;
        }
        ensure!(self.skipped == 0, "{} cannot be replayed: see above why", self.skipped);
        Ok(())
    }
}

async fn replay_these(asker: &Asker, ids: &[String], json: bool) -> anyhow::Result<()> {
    let mut sum = Sum::default();
    for some in ids.chunks(AT_ONCE) {
        let answer = asker.post("/admin/dead-letters/replay", &json!({"ids": some})).await?;
        sum.add(&answer, json)?;
        if let Some(why) = answer["stopped"].as_str() {
            bail!("stopped after {}: {why}; run it again with the ids that are left", sum.replayed);
        }
    }
    sum.end(json)
}

async fn replay_all(asker: &Asker, filter: &[(&str, String)], again: bool, limit: Option<usize>, json: bool) -> anyhow::Result<()> {
    let mut wish: Map<String, Json> = filter.iter().map(|(name, value)| ((*name).to_owned(), Json::from(value.as_str()))).collect();
    // What is replayed now and fails again becomes a new letter, which is not replayed in turn for ever.
    wish.entry("to").or_insert_with(|| Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true).into());
    wish.insert("again".into(), again.into());
    let mut sum = Sum::default();
    loop {
        let left = limit.map_or(AT_ONCE, |limit| limit.saturating_sub(sum.replayed + sum.skipped).min(AT_ONCE));
        if left == 0 {
            break;
        }
        wish.insert("limit".into(), left.into());
        let answer = asker.post("/admin/dead-letters/replay", &Json::Object(wish.clone())).await?;
        sum.add(&answer, json)?;
        if let Some(why) = answer["stopped"].as_str() {
            bail!("stopped after {}: {why}; run the same command again, it goes on with those that were not replayed", sum.replayed);
        }
        let Some(next) = answer["next"].as_i64() else { break };
        wish.insert("above".into(), next.into());
    }
    sum.end(json)
}

fn print_json(json: &Json) -> io::Result<()> {
    say(format!("{json:#}"))
}

fn print_list(page: &Json) -> io::Result<()> {
    let letters = page["deadLetters"].as_array().map(Vec::as_slice).unwrap_or_default();
    for letter in letters {
        let place = format!("{}/{}/{}", text(letter, "topic"), letter["partition"], letter["offset"]);
        let reason: String = text(letter, "reason").chars().take(REASON_SHOWN).collect();
        let replays = match letter["replays"].as_u64() {
            Some(0) | None => String::new(),
            Some(times) => format!(", replayed {times}x"),
        };
        say(format!(
            "{}  {}  {place}  {} after {}{replays}: {reason}",
            text(letter, "id"),
            text(letter, "failedAt"),
            text(letter, "errorType"),
            letter["attempts"]
        ))?;
    }
    match page["next"].as_i64() {
        Some(next) => say(format!("{} of more: go on with --below {next}", letters.len())),
        None => say(format!("{} in all", letters.len())),
    }
}

fn print_letter(letter: &Json) -> io::Result<()> {
    for (name, value) in
        letter.as_object().into_iter().flatten().filter(|(name, value)| !value.is_null() && *name != "data" && *name != "headers")
    {
        say(format!("{name}: {}", text_of(value)))?;
    }
    for header in letter["headers"].as_array().into_iter().flatten() {
        say(format!("header {}: {}", text_of(&header[0]), text_of(&header[1])))?;
    }
    say(format!("data:\n{}", text_of(&letter["data"])))
}

fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_said_as_how_long_ago() {
        let now = DateTime::parse_from_rfc3339("2025-01-31T12:00:00Z").unwrap().to_utc();
        assert_eq!(time("--from", "2h30m", now).unwrap(), "2025-01-31T09:30:00.000Z");
        assert_eq!(time("--from", "2025-01-01T00:00:00+01:00", now).unwrap(), "2024-12-31T23:00:00.000Z");
        assert!(time("--from", "yesterday", now).unwrap_err().to_string().contains("--from yesterday: write a time such as"));
    }

    #[test]
    fn what_is_asked_for_reaches_the_api_as_it_was_meant() {
        let asked = [("topic", "a&b".to_owned()), ("from", "2025-01-31T12:00:00.000Z".to_owned())];
        assert_eq!(path("/admin/dead-letters", &asked).unwrap(), "/admin/dead-letters?topic=a%26b&from=2025-01-31T12%3A00%3A00.000Z");
        assert!(segment("../orders").is_err());
    }
}
