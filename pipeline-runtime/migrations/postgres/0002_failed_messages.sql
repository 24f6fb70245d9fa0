-- Dead letters, kept for review and to be replayed from. Texts stand in a column of text; what is none lies in the one beside it.
CREATE TABLE failed_messages (
    seq           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- order of arrival: of one key that of their deaths
    id            TEXT COLLATE "C" NOT NULL UNIQUE, -- follows from where the message lay: the same letter twice is one row
    topic         TEXT COLLATE "C",                 -- where it was read from; NULL: somebody else buried it and did not say
    partition     INTEGER,
    "offset"      BIGINT,
    key           TEXT,
    key_bytes     BYTEA,
    event_id      TEXT,
    error_type    TEXT COLLATE "C" NOT NULL,
    reason        TEXT NOT NULL,
    attempts      INTEGER NOT NULL,
    published_at  TIMESTAMPTZ NOT NULL,
    failed_at     TIMESTAMPTZ NOT NULL,
    headers       JSON NOT NULL,                    -- of the message itself: [[name, text], [name, {"hex": ...}]]
    data          TEXT,
    data_bytes    BYTEA,
    obstacle      TEXT,                             -- why it cannot be replayed from here
    letter        TEXT NOT NULL,                    -- where the dead letter lies: backend/topic/partition/offset
    kept_at       TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    replays       INTEGER NOT NULL DEFAULT 0,
    replayed_at   TIMESTAMPTZ,
    replayed_by   TEXT,
    alert_due     TIMESTAMPTZ,                      -- when somebody is to be told of it; NULL: nothing is due
    alert_tries   INTEGER NOT NULL DEFAULT 0,
    alerted_at    TIMESTAMPTZ,
    alert_failure TEXT
);
CREATE INDEX failed_messages_kept_at ON failed_messages (kept_at);
CREATE INDEX failed_messages_alert_due ON failed_messages (alert_due) WHERE alert_due IS NOT NULL;
