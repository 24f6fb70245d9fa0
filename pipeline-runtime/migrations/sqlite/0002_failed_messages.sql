-- As in PostgreSQL.
CREATE TABLE failed_messages (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    topic         TEXT,
    partition     INTEGER,
    "offset"      INTEGER,
    key           TEXT,
    key_bytes     BLOB,
    event_id      TEXT,
    error_type    TEXT NOT NULL,
    reason        TEXT NOT NULL,
    attempts      INTEGER NOT NULL,
    published_at  TEXT NOT NULL,
    failed_at     TEXT NOT NULL,
    headers       TEXT NOT NULL,
    data          TEXT,
    data_bytes    BLOB,
    obstacle      TEXT,
    letter        TEXT NOT NULL,
    kept_at       TEXT NOT NULL,
    replays       INTEGER NOT NULL DEFAULT 0,
    replayed_at   TEXT,
    replayed_by   TEXT,
    alert_due     TEXT,
    alert_tries   INTEGER NOT NULL DEFAULT 0,
    alerted_at    TEXT,
    alert_failure TEXT
);
CREATE INDEX failed_messages_kept_at ON failed_messages (kept_at);
CREATE INDEX failed_messages_alert_due ON failed_messages (alert_due) WHERE alert_due IS NOT NULL;
