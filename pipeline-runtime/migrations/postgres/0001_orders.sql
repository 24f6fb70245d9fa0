-- Ids compare byte by byte (COLLATE "C"): cheaper than a language's order, and the same order in which the store locks rows.
CREATE TABLE orders (
    order_id     TEXT COLLATE "C" PRIMARY KEY,
    tenant_id    TEXT COLLATE "C",
    customer_id  TEXT COLLATE "C",
    items        JSONB,
    total_amount DECIMAL(10,2),
    status       TEXT,
    created_at   TIMESTAMPTZ NOT NULL,
    processed_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    fields       JSONB NOT NULL DEFAULT '{}',  -- what set and append have put there
    field_times  JSONB NOT NULL DEFAULT '{}',  -- when a field was set, where the event says so: microseconds since 1970
    content      BYTEA,                        -- SHA-256 of the data of its Create; NULL when an Upsert made it
    event_id     TEXT COLLATE "C" NOT NULL,    -- of the event that made it
    event        TEXT NOT NULL,
    source       TEXT NOT NULL
) WITH (fillfactor = 85); -- room on the page for the updates that most orders get
CREATE INDEX orders_created_at ON orders (created_at);
CREATE INDEX orders_customer_id ON orders (customer_id);
CREATE INDEX orders_tenant_id ON orders (tenant_id, created_at) WHERE tenant_id IS NOT NULL;

-- That an event took effect: all but Creates, for which the order itself is the note. seq grows in the order in which the events of one
-- order took effect.
CREATE TABLE applied_events (
    event_id   TEXT COLLATE "C" PRIMARY KEY,
    seq        BIGINT NOT NULL,
    order_id   TEXT COLLATE "C" NOT NULL,
    event      TEXT NOT NULL,
    source     TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE SEQUENCE applied_events_seq OWNED BY applied_events.seq;
-- Rows lie in the order of time, so that a block range index finds the old ones and costs nothing to write.
CREATE INDEX applied_events_applied_at ON applied_events USING brin (applied_at) WITH (pages_per_range = 16);

-- Everything that took effect, for people and checkers: the event that made an order has seq 0.
CREATE VIEW effects AS
    SELECT order_id, 0::bigint AS seq, event_id, event, source, processed_at AS applied_at FROM orders WHERE content IS NOT NULL
    UNION ALL
    SELECT order_id, seq, event_id, event, source, applied_at FROM applied_events;

-- Updates that came before their Create.
CREATE TABLE early_events (
    event_id   TEXT COLLATE "C" PRIMARY KEY,
    seq        BIGINT GENERATED ALWAYS AS IDENTITY, -- order of arrival
    order_id   TEXT COLLATE "C" NOT NULL,
    change     JSON NOT NULL,
    arrived_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    refused    TEXT,        -- why it contradicts the order that came
    handed_at  TIMESTAMPTZ  -- handed out to become a dead letter; from then on it never takes effect
);
CREATE INDEX early_events_order_id ON early_events (order_id);

-- Request ids that an API process has claimed before publishing.
CREATE TABLE request_claims (
    request     TEXT COLLATE "C" PRIMARY KEY,
    body_hash   BYTEA NOT NULL,
    owner       TEXT NOT NULL,
    answer      TEXT,       -- NULL: being published
    claimed_at  TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    lease_until TIMESTAMPTZ NOT NULL
);
CREATE INDEX request_claims_claimed_at ON request_claims USING brin (claimed_at) WITH (pages_per_range = 16);
