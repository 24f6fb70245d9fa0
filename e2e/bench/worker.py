"""The worker as a careful Python team would write it: confluent-kafka in batches, one UNNEST statement a batch, commit after it.

The same work as ours: parse, validate, drop duplicates by order id, one row an order and one note an event, offsets after the write.
Run: worker.py BROKERS TOPIC GROUP POSTGRES_URL COUNT; ends when COUNT orders are stored and prints the seconds since the first.
"""
import sys
import time

import orjson
import psycopg
from confluent_kafka import Consumer

brokers, topic, group, url, count = sys.argv[1:5] + [int(sys.argv[5])]
database = psycopg.connect(url)
with database.cursor() as cursor:
    cursor.execute("""
        CREATE TABLE IF NOT EXISTS py_orders (order_id text PRIMARY KEY, customer_id text, tenant_id text, items jsonb,
          total_amount numeric(10,2), status text, created_at timestamptz, processed_at timestamptz DEFAULT now());
        CREATE INDEX IF NOT EXISTS py_created ON py_orders (created_at);
        CREATE INDEX IF NOT EXISTS py_customer ON py_orders (customer_id);
        CREATE TABLE IF NOT EXISTS py_events (event_id text PRIMARY KEY, order_id text, applied_at timestamptz DEFAULT now());
        TRUNCATE py_orders, py_events""")
database.commit()
consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False})
consumer.subscribe([topic])

INSERT = """
WITH fresh AS (INSERT INTO py_events (event_id, order_id) SELECT * FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING)
INSERT INTO py_orders (order_id, customer_id, tenant_id, items, total_amount, status, created_at)
SELECT o.id, o.customer, o.tenant, o.items::jsonb, o.total::numeric, 'CREATED', now()
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) AS o (id, customer, tenant, items, total) ON CONFLICT DO NOTHING"""


def valid(order):
    items = order.get("items")
    return (isinstance(order.get("orderId"), str) and isinstance(order.get("customerId"), str)
            and isinstance(order.get("totalAmount"), (int, float)) and order["totalAmount"] >= 0
            and isinstance(items, list) and items and all(i.get("quantity", 1) > 0 and i.get("unitPrice", 0) >= 0 for i in items))


done, begin = 0, None
while done < count:
    messages = [m for m in consumer.consume(500, 0.1) if not m.error()]
    if not messages:
        continue
    begin = begin or time.monotonic()
    events, orders = [], []
    for message in messages:
        order = orjson.loads(message.value())
        if valid(order):
            orders.append(order)
            events.append(dict(message.headers() or []).get("id", b"").decode() or order["orderId"])
    with database.cursor() as cursor:
        ids = [o["orderId"] for o in orders]
        cursor.execute(INSERT, (events, ids, ids, [o["customerId"] for o in orders], [o.get("tenantId") for o in orders],
                                [orjson.dumps(o["items"]).decode() for o in orders], [str(o["totalAmount"]) for o in orders]))
    database.commit()
    consumer.commit(asynchronous=False)
    done += len(messages)
print(time.monotonic() - begin, flush=True)
consumer.close()
