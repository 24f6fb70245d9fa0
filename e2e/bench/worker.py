"""The worker as a careful Python team would write it: confluent-kafka in batches, one UNNEST statement a batch, commit after it.

The same work as ours: parse, validate, the same columns and indexes, repeats dropped by the order's id, another content under a
known id reported, offsets after the write.
Run: worker.py BROKERS TOPIC GROUP POSTGRES_URL COUNT; ends when COUNT orders are stored and prints the seconds since the first.
"""
import hashlib
import sys
import time

import orjson
import psycopg
from confluent_kafka import Consumer
from pydantic import ValidationError

from order import Order

brokers, topic, group, url, count = sys.argv[1:5] + [int(sys.argv[5])]
database = psycopg.connect(url)
with database.cursor() as cursor:
    cursor.execute("""
        CREATE TABLE IF NOT EXISTS py_orders (order_id text COLLATE "C" PRIMARY KEY, tenant_id text COLLATE "C",
          customer_id text COLLATE "C", items jsonb, total_amount decimal(10,2), status text, created_at timestamptz NOT NULL,
          processed_at timestamptz NOT NULL DEFAULT clock_timestamp(), updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
          content bytea, event_id text, event text, source text);
        CREATE INDEX IF NOT EXISTS py_created ON py_orders (created_at);
        CREATE INDEX IF NOT EXISTS py_customer ON py_orders (customer_id);
        CREATE INDEX IF NOT EXISTS py_tenant ON py_orders (tenant_id, created_at)""")
database.commit()
consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False})
consumer.subscribe([topic])

COLUMNS = ["order_id", "tenant_id", "customer_id", "items", "total_amount", "status", "created_at", "content", "event_id", "event", "source"]
TYPES = ["text", "text", "text", "text", "text", "text", "float8", "bytea", "text", "text", "text"]
INSERT = f"""
INSERT INTO py_orders ({", ".join(COLUMNS)})
SELECT order_id, tenant_id, customer_id, items::jsonb, total_amount::decimal, status, to_timestamp(created_at), content, event_id, event, source
FROM unnest({", ".join(f"%s::{kind}[]" for kind in TYPES)}) AS n ({", ".join(COLUMNS)}) ON CONFLICT DO NOTHING"""
CONFLICTS = """
SELECT n.order_id FROM unnest(%s::text[], %s::bytea[]) AS n (order_id, content) JOIN py_orders o USING (order_id) WHERE o.content <> n.content"""


def row(message):
    headers = dict(message.headers() or [])
    if headers.get("type", b"OrderCreated") != b"OrderCreated":
        return None
    try:
        order = Order.model_validate_json(message.value())
    except ValidationError as error:
        print(f"{message.topic()}/{message.partition()}/{message.offset()}: {error}", file=sys.stderr)
        return None
    body = orjson.loads(message.value())
    content = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    return (order.orderId, order.tenantId, order.customerId, orjson.dumps(body["items"]).decode(), str(order.totalAmount), "RECEIVED",
            message.timestamp()[1] / 1000, content, headers.get("id", b"").decode() or order.orderId, "OrderCreated",
            f"{message.topic()}/{message.partition()}/{message.offset()}")


done, begin = 0, None
while done < count:
    messages = [m for m in consumer.consume(500, 0.1) if not m.error()]
    if not messages:
        continue
    begin = begin or time.monotonic()
    rows = [r for r in map(row, messages) if r is not None]
    with database.cursor() as cursor:
        columns = [list(column) for column in zip(*rows)]
        cursor.execute(INSERT, columns, binary=True)
        if cursor.rowcount < len(rows):
            for conflict in cursor.execute(CONFLICTS, (columns[0], columns[7])):
                print(f"order {conflict[0]} exists with another content", file=sys.stderr)
    database.commit()
    consumer.commit(asynchronous=False)
    done += len(messages)
print(time.monotonic() - begin, flush=True)
consumer.close()
