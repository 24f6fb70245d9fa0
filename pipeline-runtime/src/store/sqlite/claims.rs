//! Claims on request ids.

use super::super::failure::failed;
use super::super::{Claim, StoreError, second};
use super::write::hex;
use super::{now, text};
use chrono::Utc;
use sqlx::SqlitePool;
use std::time::Duration;

pub async fn claim(writer: &SqlitePool, owner: &str, request: &str, body_hash: [u8; 32], lease: Duration) -> Result<Claim, StoreError> {
    let hash = hex(&body_hash);
    let until = chrono::Duration::from_std(lease).ok().and_then(|lease| Utc::now().checked_add_signed(lease));
    let taken = sqlx::query(
        "INSERT INTO request_claims (request, body_hash, owner, claimed_at, lease_until) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (request) DO UPDATE SET owner = $6, lease_until = excluded.lease_until \
         WHERE answer IS NULL AND lease_until <= $4 AND body_hash = excluded.body_hash",
    )
    .bind(request)
    .bind(&hash)
    .bind(owner)
    .bind(now())
    .bind(until.map_or_else(|| "9999".into(), text))
    .bind(second(owner))
    .execute(writer)
    .await
    .map_err(|e| failed("claiming a request", e))?;
    if taken.rows_affected() == 1 {
        return Ok(Claim::Ours);
    }
    let found: Option<(String, Option<String>)> = sqlx::query_as("SELECT body_hash, answer FROM request_claims WHERE request = $1")
        .bind(request)
        .fetch_optional(writer)
        .await
        .map_err(|e| failed("reading a claim", e))?;
    Ok(match found {
        Some((stored, _)) if stored != hash => Claim::OtherBody,
        Some((_, Some(answer))) => Claim::Answered { body_hash, answer },
        // None: released between the two statements
        Some((_, None)) | None => Claim::Pending,
    })
}

/// Whoever publishes knows the answer, also if somebody else has taken the claim over since.
pub async fn settle(writer: &SqlitePool, request: &str, answer: &str) -> Result<(), StoreError> {
    let settled = sqlx::query("UPDATE request_claims SET answer = $2 WHERE request = $1 AND answer IS NULL").bind(request).bind(answer);
    settled.execute(writer).await.map(drop).map_err(|e| failed("settling a claim", e))
}

/// Only one's own: after a lease has ended it may be somebody else's. One that was taken over is only left.
pub async fn release(writer: &SqlitePool, owner: &str, request: &str) -> Result<(), StoreError> {
    let released = sqlx::query("DELETE FROM request_claims WHERE request = $1 AND owner = $2 AND answer IS NULL").bind(request).bind(owner);
    let released = released.execute(writer).await.map_err(|e| failed("releasing a claim", e))?;
    if released.rows_affected() == 0 { leave(writer, owner, request).await } else { Ok(()) }
}

pub async fn leave(writer: &SqlitePool, owner: &str, request: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE request_claims SET lease_until = $4 WHERE request = $1 AND owner IN ($2, $3) AND answer IS NULL")
        .bind(request)
        .bind(owner)
        .bind(second(owner))
        .bind(now())
        .execute(writer)
        .await
        .map(drop)
        .map_err(|e| failed("leaving a claim", e))
}
