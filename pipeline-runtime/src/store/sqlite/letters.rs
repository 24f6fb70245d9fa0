//! As in PostgreSQL; times are text.

use super::super::failure::failed;
use super::super::letters::{
    ALERT_LEASE, Content, Facts, Failed, FailedPage, Filter, Letter, headers_of_json, headers_to_json, joined, plain, text_or_bytes,
};
use super::super::{StoreError, TIDY_STEP, TIDY_STEPS};
use super::{after, before, now, text};
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqlitePool};
use std::time::Duration;

pub async fn keep(writer: &SqlitePool, letters: &[Letter]) -> Result<u64, StoreError> {
    let doing = |e| failed("keeping dead letters", e);
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(doing)?;
    let mut new = 0;
    for Letter { facts, content, alert } in letters {
        let ((key, key_bytes), (data, data_bytes)) = (text_or_bytes(facts.key.as_ref()), text_or_bytes(content.data.as_ref()));
        let kept = sqlx::query(
            "INSERT INTO failed_messages (id, topic, partition, \"offset\", key, key_bytes, event_id, error_type, reason, attempts, \
                                          published_at, failed_at, headers, data, data_bytes, obstacle, letter, kept_at, alert_due) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $19, CASE WHEN $18 THEN $19 END) \
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(plain(&facts.id))
        .bind(facts.topic.as_deref().map(plain))
        .bind(facts.partition)
        .bind(facts.offset)
        .bind(key)
        .bind(key_bytes)
        .bind(facts.event_id.as_deref().map(plain))
        .bind(plain(&facts.error_type))
        .bind(plain(&facts.reason))
        .bind(facts.attempts)
        .bind(text(facts.published_at))
        .bind(text(facts.failed_at))
        .bind(headers_to_json(&content.headers))
        .bind(data)
        .bind(data_bytes)
        .bind(facts.obstacle.as_deref().map(plain))
        .bind(&facts.letter)
        .bind(alert)
        .bind(now())
        .execute(&mut *transaction)
        .await;
        new += kept.map_err(doing)?.rows_affected();
    }
    transaction.commit().await.map_err(doing)?;
    Ok(new)
}

const FACTS: &str = "seq, id, topic, partition, \"offset\", key, key_bytes, event_id, error_type, reason, attempts, published_at, failed_at, \
                     obstacle, letter, COALESCE(octet_length(data), octet_length(data_bytes), 0) AS bytes, kept_at, replays, \
                     replayed_at, replayed_by, alerted_at, alert_failure";
const WANTED: &str = "($1 IS NULL OR topic = $1) AND ($2 IS NULL OR error_type = $2) \
                      AND ($3 IS NULL OR failed_at >= $3) AND ($4 IS NULL OR failed_at < $4) \
                      AND ($5 IS NULL OR (replays > 0) = $5)";

type Bound<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn asked<'q>(sql: String, filter: &Filter) -> Bound<'q> {
    sqlx::query(AssertSqlSafe(sql))
        .bind(filter.topic.as_deref().map(plain))
        .bind(filter.error_type.as_deref().map(plain))
        .bind(filter.from.map(text))
        .bind(filter.to.map(text))
        .bind(filter.replayed)
}

pub async fn list(readers: &SqlitePool, filter: &Filter, below: Option<i64>, limit: u32) -> Result<FailedPage, StoreError> {
    let sql = format!("SELECT {FACTS} FROM failed_messages WHERE {WANTED} AND seq < $6 ORDER BY seq DESC LIMIT $7");
    let rows = asked(sql, filter).bind(below.unwrap_or(i64::MAX)).bind(i64::from(limit) + 1).fetch_all(readers).await;
    let mut letters = rows.and_then(|rows| rows.iter().map(facts).collect::<Result<Vec<_>, _>>()).map_err(unread)?;
    let more = letters.len() > limit as usize;
    letters.truncate(limit as usize);
    Ok(FailedPage { letters, more })
}

pub async fn show(readers: &SqlitePool, id: &str) -> Result<Option<(Failed, Content)>, StoreError> {
    let sql = format!("SELECT {FACTS}, headers, data, data_bytes FROM failed_messages WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(plain(id)).fetch_optional(readers).await.map_err(unread)?;
    row.as_ref().map(whole).transpose().map_err(unread)
}

pub async fn first_above(readers: &SqlitePool, filter: &Filter, above: i64) -> Result<Option<(Failed, Content)>, StoreError> {
    let sql = format!("SELECT {FACTS}, headers, data, data_bytes FROM failed_messages WHERE {WANTED} AND seq > $6 ORDER BY seq LIMIT 1");
    let row = asked(sql, filter).bind(above).fetch_optional(readers).await.map_err(unread)?;
    row.as_ref().map(whole).transpose().map_err(unread)
}

pub async fn note_replay(writer: &SqlitePool, id: &str, by: &str) -> Result<(), StoreError> {
    let noted = sqlx::query("UPDATE failed_messages SET replays = replays + 1, replayed_at = $3, replayed_by = $2 WHERE id = $1");
    noted.bind(id).bind(plain(by)).bind(now()).execute(writer).await.map(drop).map_err(|e| failed("noting a replay", e))
}

pub async fn alerts(writer: &SqlitePool, most: u32) -> Result<Vec<(Failed, u32)>, StoreError> {
    let sql = format!(
        "UPDATE failed_messages SET alert_due = $1 WHERE seq IN (\
           SELECT seq FROM failed_messages WHERE alert_due <= $3 ORDER BY alert_due LIMIT $2) \
         RETURNING {FACTS}, alert_tries"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(after(ALERT_LEASE)).bind(i64::from(most)).bind(now()).fetch_all(writer).await;
    let due = |row: &SqliteRow| Ok((facts(row)?, row.try_get::<i32, _>("alert_tries")?.unsigned_abs()));
    rows.and_then(|rows| rows.iter().map(due).collect()).map_err(|e| failed("looking for whom to tell of dead letters", e))
}

pub async fn note_alert(writer: &SqlitePool, id: &str) -> Result<(), StoreError> {
    let noted = sqlx::query("UPDATE failed_messages SET alert_due = NULL, alerted_at = $2, alert_failure = NULL WHERE id = $1");
    noted.bind(id).bind(now()).execute(writer).await.map(drop).map_err(|e| failed("noting an alert", e))
}

pub async fn note_alert_failure(
    writer: &SqlitePool,
    id: &str,
    reason: &str,
    tried: bool,
    again: Option<Duration>,
) -> Result<(), StoreError> {
    let noted = sqlx::query(
        "UPDATE failed_messages SET alert_due = $2, alert_failure = $3, \
           alert_tries = alert_tries + CASE WHEN $4 THEN 1 ELSE 0 END WHERE id = $1 AND alerted_at IS NULL",
    );
    let noted = noted.bind(id).bind(again.map(after)).bind(plain(reason)).bind(tried);
    noted.execute(writer).await.map(drop).map_err(|e| failed("noting an alert that failed", e))
}

pub async fn forget(writer: &SqlitePool, keep: Duration, replayed: Duration, most: i64) -> Result<u64, StoreError> {
    let mut gone = 0;
    for _ in 0..TIDY_STEPS {
        let forgotten = sqlx::query(
            "DELETE FROM failed_messages WHERE seq IN (SELECT seq FROM failed_messages \
               WHERE kept_at < $1 AND (replayed_at IS NULL OR replayed_at < $4) \
                  OR seq <= (SELECT seq FROM failed_messages ORDER BY seq DESC LIMIT 1 OFFSET $2) \
               ORDER BY seq LIMIT $3)",
        );
        let forgotten = forgotten.bind(before(keep)).bind(most).bind(TIDY_STEP).bind(before(replayed)).execute(writer).await;
        let step = forgotten.map_err(|e| failed("forgetting old dead letters", e))?.rows_affected();
        gone += step;
        if (step as i64) < TIDY_STEP {
            break;
        }
    }
    Ok(gone)
}

fn unread(error: sqlx::Error) -> StoreError {
    failed("reading dead letters", error)
}

fn whole(row: &SqliteRow) -> Result<(Failed, Content), sqlx::Error> {
    let headers = headers_of_json(row.try_get("headers")?);
    Ok((facts(row)?, Content { headers, data: joined(row.try_get("data")?, row.try_get("data_bytes")?) }))
}

fn facts(row: &SqliteRow) -> Result<Failed, sqlx::Error> {
    let time = |name: &str| row.try_get::<&str, _>(name).and_then(parsed);
    let maybe = |name: &str| row.try_get::<Option<&str>, _>(name)?.map(parsed).transpose();
    Ok(Failed {
        seq: row.try_get("seq")?,
        facts: Facts {
            id: row.try_get("id")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("offset")?,
            key: joined(row.try_get("key")?, row.try_get("key_bytes")?),
            event_id: row.try_get("event_id")?,
            error_type: row.try_get("error_type")?,
            reason: row.try_get("reason")?,
            attempts: row.try_get("attempts")?,
            published_at: time("published_at")?,
            failed_at: time("failed_at")?,
            obstacle: row.try_get("obstacle")?,
            letter: row.try_get("letter")?,
        },
        bytes: row.try_get("bytes")?,
        kept_at: time("kept_at")?,
        replays: row.try_get("replays")?,
        replayed_at: maybe("replayed_at")?,
        replayed_by: row.try_get("replayed_by")?,
        alerted_at: maybe("alerted_at")?,
        alert_failure: row.try_get("alert_failure")?,
    })
}

fn parsed(text: &str) -> Result<DateTime<Utc>, sqlx::Error> {
    text.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))
}
