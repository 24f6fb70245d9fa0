//! Reading a body: within its bounds of size, time and memory, and as strict JSON.

use super::errors::Problem;
use super::json;
use crate::codec::{self, Weight};
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use crds::json::Json;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What all bodies in work may take in memory, as bytes and as parsed values.
const LARGE_BUDGET: usize = 48 << 20;
/// Kept for small bodies: a few large ones that come slowly must not shut everybody else out.
const SMALL_BUDGET: usize = 16 << 20;
/// What is announced as no larger than this is small.
const SMALL_BODY: u64 = 64 << 10;
/// What readers of the message can take, without what the message adds.
const MAX_WEIGHT: usize = codec::MAX_WEIGHT - (64 << 10);
/// Readers take 127; an envelope adds one, a list of the order's two more, and whoever reads that its own.
const MAX_DEPTH: usize = 64;
/// No topic makes a body larger than this acceptable.
const HARD_LIMIT: usize = 10 << 20;
/// What a message has around a body of the largest size, and what a client may waste on spaces: the broker has the last word.
const SLACK: usize = 64 << 10;
const READ_WITHIN: Duration = Duration::from_secs(30);

/// How much of a refused body is read and thrown away, and for how long, so that the client gets to read its answer
/// and not a broken pipe.
#[derive(Clone, Copy)]
pub struct Drain(usize, pub Duration);
pub const SMALL_DRAIN: Drain = Drain(1 << 20, Duration::from_millis(500));
pub const LARGE_DRAIN: Drain = Drain(32 << 20, Duration::from_secs(5));

/// The memory for bodies.
pub struct Budget {
    pub large: Arc<Semaphore>,
    pub small: Arc<Semaphore>,
}

impl Budget {
    pub fn new() -> Budget {
        Budget { large: Arc::new(Semaphore::new(LARGE_BUDGET)), small: Arc::new(Semaphore::new(SMALL_BUDGET)) }
    }

    /// For a body of which so much is announced. A small one may take what is left for the large ones, too.
    fn share(&self, announced: Option<u64>) -> Share {
        let own = |budget: &Arc<Semaphore>| (budget.clone(), None);
        let small = announced.is_some_and(|bytes| bytes <= SMALL_BODY);
        Share(small.then(|| own(&self.small)).into_iter().chain([own(&self.large)]).collect())
    }
}

/// A body's share of the budget; given back when dropped. Where it may take from, and what it holds of that.
pub struct Share(Vec<(Arc<Semaphore>, Option<OwnedSemaphorePermit>)>);

impl Share {
    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let most = u32::try_from(bytes).unwrap_or(u32::MAX);
        for (budget, held) in &mut self.0 {
            if let Ok(more) = budget.clone().try_acquire_many_owned(most) {
                match held {
                    Some(held) => held.merge(more),
                    None => *held = Some(more),
                }
                return Ok(());
            }
        }
        Err(Problem::unavailable("overloaded", "too many bodies are being worked on: send it again a little later", 1))
    }
}

/// A JSON body as it came, of which it is known that what it says fits into memory.
pub struct JsonBody {
    pub text: Bytes,
    pub share: Share,
}

impl JsonBody {
    /// What it says, in its own texts.
    pub fn said(&self) -> Result<Json<'_>, Problem> {
        json::parse(&self.text)
    }
}

/// The largest body for a topic.
pub fn limit(max_message_bytes: usize) -> usize {
    max_message_bytes.min(HARD_LIMIT) + SLACK
}

/// Reads a JSON body of at most so many bytes.
pub async fn read(headers: &HeaderMap, body: Body, limit: usize, budget: &Budget) -> Result<JsonBody, Problem> {
    if let Err(problem) = must_be_json(headers) {
        turn_away(headers, body, SMALL_DRAIN);
        return Err(problem);
    }
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        turn_away(headers, body, LARGE_DRAIN);
        return Err(too_large(announced, limit));
    }
    let mut share = budget.share(body.size_hint().exact());
    // What is announced is taken at once: better refused before it was sent than in the middle.
    if let Err(overloaded) = share.take(announced as usize) {
        turn_away(headers, body, SMALL_DRAIN);
        return Err(overloaded);
    }
    let text = collect(body, limit, announced as usize, &mut share).await?;
    let Weight { bytes: weight, depth } = json::weigh(&text);
    if depth > MAX_DEPTH {
        return Err(Problem::bad_request("malformed_json", format!("the body is nested more than {MAX_DEPTH} levels deep")));
    }
    if weight > MAX_WEIGHT || weight + 2 * text.len() > LARGE_BUDGET {
        let message = format!("the body holds too many values: parsed it would take about {} MiB of memory", weight >> 20);
        return Err(Problem::too_large(message));
    }
    // Once more for the text, which becomes the message.
    share.take(weight + text.len())?;
    Ok(JsonBody { text, share })
}

fn must_be_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |message: String| Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return unsupported(format!("Content-Encoding {encoding:?} is not understood: send the body as it is"));
    }
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = given.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    let utf8 = parts.filter_map(|p| p.strip_prefix("charset=")).all(|c| matches!(c.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"));
    if json && utf8 { Ok(()) } else { unsupported(format!("Content-Type {given:?} is not understood: send application/json in UTF-8")) }
}

/// `taken` of the share is for the body already.
async fn collect(mut body: Body, limit: usize, mut taken: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let deadline = Instant::now() + READ_WITHIN;
    // A small body is one piece, which is kept as it is.
    let mut only = Bytes::new();
    let mut joined: Vec<u8> = Vec::new();
    loop {
        let piece = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(e))) => return Err(Problem::bad_request("incomplete_body", format!("the body broke off: {e}"))),
            Ok(None) => break,
            Err(_) => {
                let message = format!("the body did not arrive within {READ_WITHIN:?}");
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
            }
        };
        let length = only.len() + joined.len() + piece.len();
        if length > limit {
            drain(body, LARGE_DRAIN).await;
            return Err(too_large(length as u64, limit));
        }
        if length > taken {
            share.take(length - taken)?;
            taken = length;
        }
        if only.is_empty() && joined.is_empty() {
            only = piece;
        } else {
            if joined.is_empty() {
                joined.reserve_exact(taken.max(length));
                joined.extend_from_slice(&std::mem::take(&mut only));
            }
            joined.extend_from_slice(&piece);
        }
    }
    Ok(if joined.is_empty() { only } else { joined.into() })
}

fn too_large(bytes: u64, limit: usize) -> Problem {
    Problem::too_large(format!("the body has {bytes} bytes or more, and this topic takes messages of at most {} bytes", limit - SLACK))
}

/// Lets go of a body of which nothing was read, so that it is answered at its head. Who waits for `100 Continue` is not asked for a body
/// that nobody wants; who sends it anyway is read from, so that the answer arrives and the connection can be used further.
pub fn turn_away(headers: &HeaderMap, body: Body, drain: Drain) {
    if !headers.contains_key(header::EXPECT) && !body.is_end_stream() {
        tokio::spawn(self::drain(body, drain));
    }
}

/// Reads what is left of a body that nobody wants, within bounds.
async fn drain(mut body: Body, Drain(most, within): Drain) {
    let deadline = Instant::now() + within;
    let mut seen = 0;
    while seen < most {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => seen += frame.data_ref().map_or(0, Bytes::len),
            _ => return,
        }
    }
}
