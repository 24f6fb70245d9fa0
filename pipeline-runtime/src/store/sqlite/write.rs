//! Carries a plan out.

use super::super::StoreError;
use super::super::check::Cents;
use super::super::failure::failed;
use super::super::plan::{Made, Patch, Plan};
use super::read::array;
use super::text;
use serde::Serialize;
use sqlx::SqliteConnection;

pub async fn write(connection: &mut SqliteConnection, plan: &Plan<'_>, now: &str) -> Result<(), StoreError> {
    let waits = plan.waits.iter().map(|c| serde_json::to_string(c).map(|change| (&c.event_id, &c.order_id, change)));
    let waits = waits.collect::<Result<Vec<_>, _>>();
    let waits = waits.map_err(|e| StoreError::Refused(format!("an event that has to wait cannot be written as JSON: {e}")))?;
    let work = [
        ("inserting orders", INSERT, array(plan.made.iter().map(row))?),
        ("changing orders", PATCH, array(plan.patches.iter().map(|(id, patch)| patch_row(id, patch)))?),
        ("keeping events that wait", WAIT, array(waits)?),
        ("ending the wait of events", WAITED, array(&plan.waited)?),
        ("refusing events that waited", REFUSE, array(&plan.refused)?),
        ("noting events", NOTE, array(plan.notes.iter().map(|c| (&c.event_id, &c.order_id, &c.event, &c.source)))?),
    ];
    for (doing, sql, rows) in work {
        if rows != "[]" {
            let statement = sqlx::query(sql).bind(rows).bind(now);
            statement.execute(&mut *connection).await.map_err(|e| failed(doing, e))?;
        }
    }
    Ok(())
}

// In each statement `$1` is the array of rows, and `$2` the time.

const INSERT: &str = "INSERT INTO orders (order_id, tenant_id, customer_id, items, total_amount, status, created_at, processed_at, \
                                          updated_at, fields, field_times, content, event_id, event, source) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, $2, $2, value->>7, value->>8, value->>9, \
           value->>10, value->>11, value->>12 FROM json_each($1) WHERE true";

fn row<'a>(made: &'a Made<'a>) -> impl Serialize + 'a {
    let (change, fields) = (made.by.change, &made.by.change.fields);
    (
        &change.order_id,
        &fields.tenant,
        &fields.customer,
        &fields.items,
        made.by.total.as_ref().map(Cents::to_string),
        &fields.status,
        text(made.created_at()),
        &made.fields,
        &made.times,
        made.content().map(hex),
        &change.event_id,
        &change.event,
        &change.source,
    )
}

pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PATCH: &str = "UPDATE orders SET tenant_id = COALESCE(n.tenant_id, orders.tenant_id), \
        customer_id = COALESCE(n.customer_id, orders.customer_id), items = COALESCE(n.items, orders.items), \
        total_amount = COALESCE(n.total, orders.total_amount), status = COALESCE(n.status, orders.status), \
        created_at = COALESCE(n.created_at, orders.created_at), fields = COALESCE(n.fields, orders.fields), \
        field_times = COALESCE(n.times, orders.field_times), updated_at = $2 \
    FROM (SELECT value->>0 AS order_id, value->>1 AS tenant_id, value->>2 AS customer_id, value->>3 AS items, value->>4 AS total, \
                 value->>5 AS status, value->>6 AS created_at, value->>7 AS fields, value->>8 AS times FROM json_each($1)) AS n \
    WHERE orders.order_id = n.order_id";

fn patch_row<'a>(order_id: &'a str, patch: &'a Patch<'a>) -> impl Serialize + 'a {
    (
        order_id,
        patch.tenant,
        patch.customer,
        patch.items,
        patch.total.as_ref().map(Cents::to_string),
        patch.status,
        patch.created_at.map(text),
        &patch.fields,
        &patch.times,
    )
}

const WAIT: &str = "INSERT INTO early_events (event_id, order_id, change, arrived_at) \
    SELECT value->>0, value->>1, value->>2, $2 FROM json_each($1) WHERE true ON CONFLICT (event_id) DO NOTHING";

const WAITED: &str = "DELETE FROM early_events WHERE event_id IN (SELECT value FROM json_each($1)) AND $2 IS NOT NULL";

const REFUSE: &str = "UPDATE early_events SET refused = n.refused \
    FROM (SELECT value->>0 AS event_id, value->>1 AS refused FROM json_each($1)) AS n \
    WHERE early_events.event_id = n.event_id AND $2 IS NOT NULL";

const NOTE: &str = "INSERT INTO applied_events (event_id, order_id, event, source, applied_at) \
    SELECT value->>0, value->>1, value->>2, value->>3, $2 FROM json_each($1) WHERE true";
