//! Dead letters that are kept. Few come, and each for itself: nothing here is made for many at once.

use super::super::failure::failed;
use super::super::letters::{
    ALERT_LEASE, Content, Facts, Failed, FailedPage, Filter, Letter, headers_of_json, headers_to_json, joined, plain, text_or_bytes,
};
use super::super::{StoreError, TIDY_STEP, TIDY_STEPS};
use super::stamp::Stamp;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use std::time::Duration;

pub async fn keep(connection: &mut PgConnection, letters: &[Letter]) -> Result<u64, StoreError> {
    let doing = |e| failed("keeping dead letters", e);
    let mut transaction = connection.begin().await.map_err(doing)?;
    let mut new = 0;
    for Letter { facts, content, alert } in letters {
        let ((key, key_bytes), (data, data_bytes)) = (text_or_bytes(facts.key.as_ref()), text_or_bytes(content.data.as_ref()));
        let kept = sqlx::query(
            "INSERT INTO failed_messages (id, topic, partition, \"offset\", key, key_bytes, event_id, error_type, reason, attempts, \
                                          published_at, failed_at, headers, data, data_bytes, obstacle, letter, alert_due) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::json, $14, $15, $16, $17, CASE WHEN $18 THEN now() END) \
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
        .bind(Stamp(facts.published_at))
        .bind(Stamp(facts.failed_at))
        .bind(headers_to_json(&content.headers))
        .bind(data)
        .bind(data_bytes)
        .bind(facts.obstacle.as_deref().map(plain))
        .bind(&facts.letter)
        .bind(alert)
        .execute(&mut *transaction)
        .await;
        new += kept.map_err(doing)?.rows_affected();
    }
    transaction.commit().await.map_err(doing)?;
    Ok(new)
}

const FACTS: &str = "seq, id, topic, partition, \"offset\", key, key_bytes, event_id, error_type, reason, attempts, published_at, failed_at, \
                     obstacle, letter, COALESCE(octet_length(data), octet_length(data_bytes), 0)::bigint AS bytes, kept_at, replays, \
                     replayed_at, replayed_by, alerted_at, alert_failure";
const WANTED: &str = "($1::text IS NULL OR topic = $1) AND ($2::text IS NULL OR error_type = $2) \
                      AND ($3::timestamptz IS NULL OR failed_at >= $3) AND ($4::timestamptz IS NULL OR failed_at < $4) \
                      AND ($5::boolean IS NULL OR (replays > 0) = $5)";

type Bound<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn asked<'q>(sql: String, filter: &Filter) -> Bound<'q> {
    sqlx::query(AssertSqlSafe(sql))
        .bind(filter.topic.as_deref().map(plain))
        .bind(filter.error_type.as_deref().map(plain))
        .bind(filter.from.map(Stamp))
        .bind(filter.to.map(Stamp))
        .bind(filter.replayed)
}

pub async fn list(connection: &mut PgConnection, filter: &Filter, below: Option<i64>, limit: u32) -> Result<FailedPage, StoreError> {
    let sql = format!("SELECT {FACTS} FROM failed_messages WHERE {WANTED} AND seq < $6 ORDER BY seq DESC LIMIT $7");
    let rows = asked(sql, filter).bind(below.unwrap_or(i64::MAX)).bind(i64::from(limit) + 1).fetch_all(connection).await;
    let mut letters = rows.and_then(|rows| rows.iter().map(facts).collect::<Result<Vec<_>, _>>()).map_err(unread)?;
    let more = letters.len() > limit as usize;
    letters.truncate(limit as usize);
    Ok(FailedPage { letters, more })
}

pub async fn show(connection: &mut PgConnection, id: &str) -> Result<Option<(Failed, Content)>, StoreError> {
    let sql = format!("SELECT {FACTS}, headers::text AS headers, data, data_bytes FROM failed_messages WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(plain(id)).fetch_optional(connection).await.map_err(unread)?;
    row.as_ref().map(whole).transpose().map_err(unread)
}

pub async fn first_above(connection: &mut PgConnection, filter: &Filter, above: i64) -> Result<Option<(Failed, Content)>, StoreError> {
    let sql = format!(
        "SELECT {FACTS}, headers::text AS headers, data, data_bytes FROM failed_messages WHERE {WANTED} AND seq > $6 ORDER BY seq LIMIT 1"
    );
    let row = asked(sql, filter).bind(above).fetch_optional(connection).await.map_err(unread)?;
    row.as_ref().map(whole).transpose().map_err(unread)
}

pub async fn note_replay(connection: &mut PgConnection, id: &str, by: &str) -> Result<(), StoreError> {
    let noted = sqlx::query("UPDATE failed_messages SET replays = replays + 1, replayed_at = now(), replayed_by = $2 WHERE id = $1");
    noted.bind(id).bind(plain(by)).execute(connection).await.map(drop).map_err(|e| failed("noting a replay", e))
}

pub async fn alerts(connection: &mut PgConnection, most: u32) -> Result<Vec<(Failed, u32)>, StoreError> {
    let sql = format!(
        "UPDATE failed_messages SET alert_due = now() + $1 * interval '1 second' WHERE seq = ANY(ARRAY(\
           SELECT seq FROM failed_messages WHERE alert_due <= now() ORDER BY alert_due LIMIT $2 FOR UPDATE SKIP LOCKED)) \
         RETURNING {FACTS}, alert_tries"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(ALERT_LEASE.as_secs_f64()).bind(i64::from(most)).fetch_all(connection).await;
    let due = |row: &PgRow| Ok((facts(row)?, row.try_get::<i32, _>("alert_tries")?.unsigned_abs()));
    rows.and_then(|rows| rows.iter().map(due).collect()).map_err(|e| failed("looking for whom to tell of dead letters", e))
}

pub async fn note_alert(connection: &mut PgConnection, id: &str) -> Result<(), StoreError> {
    let noted = sqlx::query("UPDATE failed_messages SET alert_due = NULL, alerted_at = now(), alert_failure = NULL WHERE id = $1");
    noted.bind(id).execute(connection).await.map(drop).map_err(|e| failed("noting an alert", e))
}

pub async fn note_alert_failure(
    connection: &mut PgConnection,
    id: &str,
    reason: &str,
    tried: bool,
    again: Option<Duration>,
) -> Result<(), StoreError> {
    let noted = sqlx::query(
        "UPDATE failed_messages SET alert_due = now() + $2 * interval '1 second', alert_failure = $3, \
           alert_tries = alert_tries + CASE WHEN $4 THEN 1 ELSE 0 END WHERE id = $1 AND alerted_at IS NULL",
    );
    let noted = noted.bind(id).bind(again.map(|again| again.as_secs_f64())).bind(plain(reason)).bind(tried);
    noted.execute(connection).await.map(drop).map_err(|e| failed("noting an alert that failed", e))
}

pub async fn forget(connection: &mut PgConnection, keep: Duration, replayed: Duration, most: i64) -> Result<u64, StoreError> {
    let mut gone = 0;
    for _ in 0..TIDY_STEPS {
        let forgotten = sqlx::query(
            "DELETE FROM failed_messages WHERE seq = ANY(ARRAY(SELECT seq FROM failed_messages \
               WHERE kept_at < now() - $1 * interval '1 second' \
                     AND (replayed_at IS NULL OR replayed_at < now() - $4 * interval '1 second') \
                  OR seq <= (SELECT seq FROM failed_messages ORDER BY seq DESC OFFSET $2 LIMIT 1) \
               ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED))",
        );
        let forgotten = forgotten.bind(keep.as_secs_f64()).bind(most).bind(TIDY_STEP).bind(replayed.as_secs_f64());
        let forgotten = forgotten.execute(&mut *connection).await;
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

fn whole(row: &PgRow) -> Result<(Failed, Content), sqlx::Error> {
    let headers = headers_of_json(row.try_get("headers")?);
    Ok((facts(row)?, Content { headers, data: joined(row.try_get("data")?, row.try_get("data_bytes")?) }))
}

fn facts(row: &PgRow) -> Result<Failed, sqlx::Error> {
    let time = |name: &str| row.try_get::<Stamp, _>(name).map(|stamp| stamp.0);
    let maybe = |name: &str| row.try_get::<Option<Stamp>, _>(name).map(|stamp| stamp.map(|stamp| stamp.0));
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
