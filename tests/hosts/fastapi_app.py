"""A service that sells jobs: a pool pays what it can, the caller the rest.

It has a table of its own, `jobs`, made by its own migrations.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import freetier
from freetier import AsyncFreeTier, FreeTierPolicy
from freetier.sqlalchemy import AsyncSQLAlchemyRepository
from freetier.starlette import add_handlers

POLICY = FreeTierPolicy(budgets={"new": 0, "trusted": 200}, seed_sats=10_000)
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ["DATABASE_URL"]  # postgresql://… or sqlite:///…
    scheme, _, rest = url.partition(":")
    engine = create_async_engine(f"{DRIVERS[scheme]}:{rest}")
    async with freetier.open_async(url, POLICY) as ledger:  # migrates, seeds once, closes
        app.state.ledger, app.state.engine = ledger, engine
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


def get_ledger(request: Request) -> AsyncFreeTier:
    ledger: AsyncFreeTier = request.app.state.ledger
    return ledger


def get_engine(request: Request) -> AsyncEngine:
    engine: AsyncEngine = request.app.state.engine
    return engine


Ledger = Annotated[AsyncFreeTier, Depends(get_ledger)]
Engine = Annotated[AsyncEngine, Depends(get_engine)]


class Caller(BaseModel):
    identity: str | None = None
    tier: str = "new"


CALLERS = {"key-of-alice": Caller(identity="alice", tier="trusted")}


def get_caller(x_key: Annotated[str, Header()] = "") -> Caller:
    """Who asks, by a key that you gave them. Believe no identity and no tier in a request."""
    return CALLERS.get(x_key, Caller())


class Job(BaseModel):
    id: str
    question: str
    price_sats: int


@app.post("/jobs")
async def create_job(
    job: Job, caller: Annotated[Caller, Depends(get_caller)], engine: Engine
) -> dict[str, str | int]:
    insert = text("INSERT INTO jobs VALUES (:id, :question) ON CONFLICT (id) DO NOTHING")
    async with engine.begin() as connection:  # commits, or rolls back on an error
        await connection.execute(insert, {"id": job.id, "question": job.question})
        ft = AsyncFreeTier(POLICY, AsyncSQLAlchemyRepository(connection))
        grant = await ft.reserve(
            freetier.Request(job.id, caller.identity, caller.tier, job.price_sats)
        )
    return {
        "serve": grant.decision.serve,
        "absorb_sats": grant.absorb_sats,
        "charge_sats": grant.charge_sats,
    }


@app.post("/jobs/{job_id}/work")
async def do_work(job_id: str, ledger: Ledger) -> dict[str, int]:
    grant = await ledger.grant(job_id)
    cost_sats = grant.decision.price_sats * 3 // 4  # the work itself, outside any transaction
    settlement = await ledger.settle(job_id, cost_sats)
    return {"charged_sats": settlement.charged_sats, "refund_sats": settlement.refund_sats}


@app.get("/pool")
async def read_pool(ledger: Ledger) -> dict[str, int]:
    pool = await ledger.pool_status()
    return {"available_sats": pool.available_sats, "reserved_sats": pool.reserved_sats}


add_handlers(app)  # errors become problem details, RFC 9457
