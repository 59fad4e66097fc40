"""What stood here before, as `make bench` measures it: the same route, the same answer, the same subject, the same work.

It checks the twelve fields, says the subject, publishes them on core NATS, and stores nothing: an event that nobody hears
is gone. It was run by uvicorn alone, whose server and loop are Python's own, and which says each request:

    NATS_URL=nats://127.0.0.1:4222 .servers/bin/uvicorn service:app --app-dir tests/original --http h11 --loop asyncio
"""

import json
import os
from contextlib import asynccontextmanager
from datetime import datetime

from uuid import UUID

import nats
from fastapi import FastAPI
from pydantic import UUID4, BaseModel


class Action(BaseModel):
    session_id: UUID4
    shop_id: UUID4
    shopper_id: UUID4
    action_id: int
    create_time: datetime
    action: str
    product_name: str
    product_id: int
    product_price: float
    UPC: str
    category_id: str
    basket_total: float


@asynccontextmanager
async def connected(app: FastAPI):
    app.state.nats = await nats.connect(os.environ["NATS_URL"])
    yield
    await app.state.nats.drain()


app = FastAPI(lifespan=connected)


@app.post("/publish/{shop_id}")
async def publish(shop_id: UUID, action: Action):
    subject = f"updates.store.{shop_id}"
    print(subject)
    await app.state.nats.publish(subject, json.dumps(action.model_dump(), default=str).encode())
    return {"status": f"Message sent to shop ID {shop_id}"}
