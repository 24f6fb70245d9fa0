"""The Orders API as a careful Python team would write it: FastAPI, pydantic, confluent-kafka, one process a core.

The same work as ours: key check, validation, an idempotency cache, an idempotent producer with acks=all, and the
answer only after the broker's ack.
Run: KAFKA_BROKERS=... KAFKA_TOPIC=... API_KEY=... uvicorn api:app --workers 2 --no-access-log
"""
import asyncio
import hashlib
import os
import threading
import time
import uuid
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import Annotated, Optional

import orjson
from confluent_kafka import Producer
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import ORJSONResponse

from order import Order

TOPIC = os.environ["KAFKA_TOPIC"]
KEY = os.environ["API_KEY"]
CACHE_SIZE = 100_000


class Publisher:
    """confluent-kafka calls back on the thread that polls; the answer is handed to the event loop from there."""

    def __init__(self):
        self.producer = Producer({
            "bootstrap.servers": os.environ["KAFKA_BROKERS"],
            "enable.idempotence": True, "acks": "all", "linger.ms": 0, "message.timeout.ms": 5000,
        })
        self.running = True
        self.thread = threading.Thread(target=self.poll, daemon=True)
        self.thread.start()

    def poll(self):
        while self.running:
            self.producer.poll(0.1)

    async def publish(self, key, value, headers):
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def report(error, _message):
            loop.call_soon_threadsafe(lambda: future.done() or (future.set_exception(RuntimeError(str(error))) if error else future.set_result(None)))

        self.producer.produce(TOPIC, key=key, value=value, headers=headers, on_delivery=report)
        await asyncio.wait_for(future, 5)


@asynccontextmanager
async def lifespan(app):
    app.state.publisher = Publisher()
    app.state.seen = OrderedDict()
    yield
    app.state.publisher.running = False
    app.state.publisher.producer.flush(5)


app = FastAPI(lifespan=lifespan, default_response_class=ORJSONResponse)


@app.get("/healthz")
async def healthz():
    return {"status": "ok"}


@app.post("/orders", status_code=202)
async def create(order: Order, x_api_key: Annotated[str, Header()], x_request_id: Annotated[Optional[str], Header()] = None):
    if x_api_key != KEY:
        raise HTTPException(401, "wrong API key")
    request = x_request_id or str(uuid.uuid4())
    body = order.model_dump(exclude_none=True)
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    seen = app.state.seen
    if (known := seen.get(request)) is not None:
        if known[0] != digest:
            raise HTTPException(422, "X-Request-Id was used with another body")
        return known[1]
    order_id = body.setdefault("orderId", str(uuid.uuid5(uuid.NAMESPACE_URL, request)))
    headers = [("id", request), ("type", "OrderCreated"), ("time", str(time.time())), ("principal", "shop"), ("schemaVersion", "1")]
    try:
        await app.state.publisher.publish(order_id.encode(), orjson.dumps(body), headers)
    except (RuntimeError, asyncio.TimeoutError, BufferError) as error:
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
    answer = {"orderId": order_id, "requestId": request, "status": "accepted"}
    seen[request] = (digest, answer)
    if len(seen) > CACHE_SIZE:
        seen.popitem(last=False)
    return answer
