"""What stood here before, as `make bench` measures it: the same route, the same answer, the same subject.

It reads the twelve fields, publishes them on core NATS, and stores nothing: an event that nobody hears is gone.

    NATS_URL=nats://127.0.0.1:4222 .servers/bin/uvicorn service:app --app-dir tests/original --port 8000
"""

import os
from contextlib import asynccontextmanager
from datetime import datetime

import nats
from fastapi import FastAPI
from pydantic import BaseModel


class Action(BaseModel):
    session_id: str
    shop_id: str
    shopper_id: str
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
async def publish(shop_id: str, action: Action):
    await app.state.nats.publish(f"updates.store.{shop_id}", action.model_dump_json().encode())
    return {"status": f"Message sent to shop ID {shop_id}"}
