//! Claims on request ids. The database's clock decides when a lease has ended.

use super::super::failure::failed;
use super::super::{Claim, StoreError, second};
use sqlx::postgres::PgConnection;
use std::time::Duration;

pub async fn claim(
    connection: &mut PgConnection,
    owner: &str,
    request: &str,
    body_hash: [u8; 32],
    lease: Duration,
) -> Result<Claim, StoreError> {
    let taken = sqlx::query(
        "INSERT INTO request_claims AS c (request, body_hash, owner, lease_until) VALUES ($1, $2, $3, now() + $4 * interval '1 millisecond') \
         ON CONFLICT (request) DO UPDATE SET owner = $5, lease_until = excluded.lease_until \
         WHERE c.answer IS NULL AND c.lease_until <= now() AND c.body_hash = excluded.body_hash",
    )
    .bind(request)
    .bind(body_hash)
    .bind(owner)
    .bind(lease.as_millis() as f64)
    .bind(second(owner))
    .execute(&mut *connection)
    .await
    .map_err(|e| failed("claiming a request", e))?;
    if taken.rows_affected() == 1 {
        return Ok(Claim::Ours);
    }
    let found: Option<(Vec<u8>, Option<String>)> = sqlx::query_as("SELECT body_hash, answer FROM request_claims WHERE request = $1")
        .bind(request)
        .fetch_optional(connection)
        .await
        .map_err(|e| failed("reading a claim", e))?;
    Ok(match found {
        Some((hash, _)) if hash != body_hash => Claim::OtherBody,
        Some((_, Some(answer))) => Claim::Answered { body_hash, answer },
        // None: released between the two statements
        Some((_, None)) | None => Claim::Pending,
    })
}

/// Whoever publishes knows the answer, also if somebody else has taken the claim over since.
pub async fn settle(connection: &mut PgConnection, request: &str, answer: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE request_claims SET answer = $2 WHERE request = $1 AND answer IS NULL")
        .bind(request)
        .bind(answer)
        .execute(connection)
        .await
        .map(drop)
        .map_err(|e| failed("settling a claim", e))
}

/// Only one's own: after a lease has ended it may be somebody else's. One that was taken over is only left.
pub async fn release(connection: &mut PgConnection, owner: &str, request: &str) -> Result<(), StoreError> {
    let released = sqlx::query("DELETE FROM request_claims WHERE request = $1 AND owner = $2 AND answer IS NULL")
        .bind(request)
        .bind(owner)
        .execute(&mut *connection)
        .await
        .map_err(|e| failed("releasing a claim", e))?;
    if released.rows_affected() == 0 { leave(connection, owner, request).await } else { Ok(()) }
}

pub async fn leave(connection: &mut PgConnection, owner: &str, request: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE request_claims SET lease_until = now() WHERE request = $1 AND owner IN ($2, $3) AND answer IS NULL")
        .bind(request)
        .bind(owner)
        .bind(second(owner))
        .execute(connection)
        .await
        .map(drop)
        .map_err(|e| failed("leaving a claim", e))
}
