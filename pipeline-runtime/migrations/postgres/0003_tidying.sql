-- The note of an event stays as long as a dead letter of it that can be replayed. (Hashed: whoever buries a message may call it anything.)
CREATE INDEX failed_messages_event_id ON failed_messages USING hash (event_id);
-- Updates that waited too long, and those that contradict the order that came, are found however many wait.
CREATE INDEX early_events_arrived_at ON early_events (arrived_at);
CREATE INDEX early_events_refused ON early_events (seq) WHERE refused IS NOT NULL;
