-- The same tables as in PostgreSQL. Times are text (UTC, microseconds), which sorts as time does; amounts are text with two decimals.
CREATE TABLE orders (
    seq          INTEGER PRIMARY KEY, -- order of arrival, without gaps: a bounded store forgets the lowest
    order_id     TEXT NOT NULL UNIQUE,
    tenant_id    TEXT,
    customer_id  TEXT,
    items        TEXT,
    total_amount TEXT,
    status       TEXT,
    created_at   TEXT NOT NULL,
    processed_at TEXT NOT NULL,
    updated_at   TEXT NOT NULL,
    fields       TEXT NOT NULL DEFAULT '{}',
    field_times  TEXT NOT NULL DEFAULT '{}',
    content      TEXT, -- hexadecimal
    event_id     TEXT NOT NULL,
    event        TEXT NOT NULL,
    source       TEXT NOT NULL
);
CREATE INDEX orders_created_at ON orders (created_at, order_id);
CREATE INDEX orders_customer_id ON orders (customer_id);
CREATE INDEX orders_tenant_id ON orders (tenant_id, created_at, order_id) WHERE tenant_id IS NOT NULL;

CREATE TABLE applied_events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id   TEXT NOT NULL UNIQUE,
    order_id   TEXT NOT NULL,
    event      TEXT NOT NULL,
    source     TEXT NOT NULL,
    applied_at TEXT NOT NULL
);

CREATE VIEW effects AS
    SELECT order_id, 0 AS seq, event_id, event, source, processed_at AS applied_at FROM orders WHERE content IS NOT NULL
    UNION ALL
    SELECT order_id, seq, event_id, event, source, applied_at FROM applied_events;

CREATE TABLE early_events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id   TEXT NOT NULL UNIQUE,
    order_id   TEXT NOT NULL,
    change     TEXT NOT NULL,
    arrived_at TEXT NOT NULL,
    refused    TEXT,
    handed_at  TEXT
);
CREATE INDEX early_events_order_id ON early_events (order_id);

CREATE TABLE request_claims (
    request     TEXT PRIMARY KEY,
    body_hash   TEXT NOT NULL,
    owner       TEXT NOT NULL,
    answer      TEXT,
    claimed_at  TEXT NOT NULL,
    lease_until TEXT NOT NULL
);
