-- As in PostgreSQL.
CREATE INDEX failed_messages_event_id ON failed_messages (event_id);
CREATE INDEX early_events_arrived_at ON early_events (arrived_at);
CREATE INDEX early_events_refused ON early_events (seq) WHERE refused IS NOT NULL;
