"""Every public function and class that takes arguments: a good call, and what else it takes."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiosqlite
import sqlalchemy
from attrs import fields
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette

import freetier
from freetier import (
    AsyncFreeTier,
    Checkpoint,
    FreeTier,
    FreeTierPolicy,
    Head,
    HostLimit,
    InvalidInput,
    Request,
    Snapshot,
    http,
    migrations,
    nostr,
    pricing,
    starlette,
    tables,
)
from freetier._async_memory import AsyncMemoryRepository
from freetier.asyncpg import AsyncpgRepository
from freetier.checkpoint import parse_checkpoint
from freetier.invoices import Invoice, Refund, RefundState
from freetier.memory import MemoryRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from freetier.sealing import parse_head
from freetier.sqlalchemy import AsyncSQLAlchemyRepository, SQLAlchemyRepository
from freetier.sqlite import AsyncSQLiteRepository, SQLiteRepository

from . import nostr_signer
from .bad_events import AT, DECISION, JOBS, POLICY, REQUEST, SESSIONS, WHO, Function, ledger
from .job_examples import NOW, RATES, WORK, grant

HOSTS: Final = object()
"""Stands for a connection of the host's, which is made for each call."""
DSN: Final = object()
"""Stands for the URL of a new database of Postgres."""


def migrate(connection: object, schema: Any) -> None:
    with closing(sqlite3.connect(":memory:")) as own:
        migrations.migrate(own if connection is HOSTS else connection, schema)


def migrate_async(connection: object, schema: Any) -> None:
    async def call() -> None:
        async with aiosqlite.connect(":memory:") as own:
            await migrations.migrate_async(own if connection is HOSTS else connection, schema)

    asyncio.run(call())


def sqlite_repository(database: Any, timeout_s: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db" if database is HOSTS else database
        SQLiteRepository(path, timeout_s=timeout_s).close()


def postgres_repository(**arguments: Any) -> None:
    PostgresRepository(**arguments).close()


def on_sqlalchemy(connection: Any, schema: Any) -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as own:
        SQLAlchemyRepository(own if connection is HOSTS else connection, schema=schema)
    engine.dispose()


def on_sqlalchemy_async(connection: Any, schema: Any) -> None:
    async def call() -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        try:
            async with engine.connect() as own:
                AsyncSQLAlchemyRepository(own if connection is HOSTS else connection, schema=schema)
        finally:
            await engine.dispose()

    asyncio.run(call())


def _refunded() -> Refund:
    return Refund(9, RefundState.PENDING, "ab@example.com")


VERIFIED = ledger().verify()
OPTIONS = {"policy": POLICY, "clock": None, "on_unavailable": "raise"}
OPENING = {"url": "memory:", "schema": None, **OPTIONS}
CONNECTIONS = {"schema": None, "timeout_s": 1, "connections": 1, "through_pooler": False}
URL = "postgresql://localhost/"
DIALECT = {"dialect": "sqlite", "schema": None}
HOSTS_OWN = {"connection": HOSTS, "schema": None}
TOKENS = {"rates": RATES, "input_tokens": 1, "output_tokens": 1}
ONE_SAT = FreeTierPolicy().decide(
    Request("job", "ab", "trusted", pricing.price_sats(**TOKENS)),  # type: ignore[arg-type]
    Snapshot(AT, 100),
)
ALL: dict[str, Any] = {"instance": None, "members": None, "headers": None}
PROOF = {
    "header": nostr_signer.header(nostr_signer.proof()),
    "url": nostr_signer.URL,
    "method": "GET",
    "body": None,
    "now": nostr_signer.NOW,
    "seen": None,
}

FUNCTIONS: dict[str, Function] = {
    **JOBS,
    **SESSIONS,
    "AsyncFreeTier": (AsyncFreeTier, {"repository": AsyncMemoryRepository(), **OPTIONS}),
    "FreeTier": (FreeTier, {"repository": MemoryRepository(), **OPTIONS}),
    "open": (freetier.open, OPENING),
    "open_async": (freetier.open_async, OPENING),
    "Request": (Request, {"request_id": "job", "price_sats": 9, **WHO}),
    "Snapshot": (
        Snapshot,
        {field.name: AT if field.name == "at" else 5 for field in fields(Snapshot)},
    ),
    "Decision.settle": (DECISION.settle, {"actual_sats": 5}),
    "FreeTierPolicy": (
        FreeTierPolicy,
        {field.name: getattr(FreeTierPolicy(), field.name) for field in fields(FreeTierPolicy)},
    ),
    "FreeTierPolicy.decide": (
        FreeTierPolicy().decide,
        {"request": REQUEST, "snapshot": Snapshot(AT, 100)},
    ),
    "FreeTierPolicy.from_env": (FreeTierPolicy.from_env, {"environ": {}}),
    "HostLimit": (HostLimit, {"name": "mine", "room": lambda *_: 1, "resets_daily": False}),
    "Head": (Head, {"seq": 1, "digest": "0" * 64}),
    "sealing.parse_head": (parse_head, {"text": f"1:{'0' * 64}"}),
    "Checkpoint": (
        Checkpoint,
        {"head": VERIFIED.head, "books": VERIFIED.checkpoint and VERIFIED.checkpoint.books},
    ),
    "checkpoint.parse_checkpoint": (parse_checkpoint, {"text": str(VERIFIED.checkpoint)}),
    "invoices.Invoice": (
        Invoice,
        {"id": "hash", "bolt11": "lnbc", "amount_sats": 1, "expires_at": AT, "paid_at": None},
    ),
    "invoices.Refund": (
        Refund,
        {"sats": 9, "state": RefundState.PENDING, "destination": None, "bolt11": None}
        | {"payment_hash": None},
    ),
    "Refund.begun": (
        _refunded().begun,
        {"destination": "ab@example.com", "bolt11": "lnbc1", "payment_hash": "hash"},
    ),
    "pricing.Rates": (
        pricing.Rates,
        {field.name: Decimal(1) for field in fields(pricing.Rates)},
    ),
    "pricing.BtcPrice": (pricing.BtcPrice, {"usd": Decimal(1), "at": AT}),
    "BtcPrice.fresh_usd": (
        pricing.BtcPrice(Decimal(1), AT).fresh_usd,
        {"now": AT, "max_age": timedelta(1)},
    ),
    "pricing.price_sats": (pricing.price_sats, TOKENS),
    "pricing.cost_usd": (pricing.cost_usd, TOKENS),
    "pricing.estimate": (
        pricing.estimate,
        {**TOKENS, "decision": ONE_SAT, "pool": ledger().pool_status()},
    ),
    "http.response_fields": (http.response_fields, {"answer": grant()}),
    "http.payment_required": (
        http.payment_required,
        {"answer": grant(), "invoice": WORK, "instance": None},
    ),
    "http.problem": (http.problem, {"error": InvalidInput("sats", 0, "more"), "instance": None}),
    "http.ratelimit_fields": (
        http.ratelimit_fields,
        {"answer": grant(), "budget_sats": 500, "now": NOW},
    ),
    "http.plain_problem": (http.plain_problem, {"status": 404, "detail": "Not here.", **ALL}),
    "starlette.PaymentRequired": (
        starlette.PaymentRequired,
        {"answer": grant(), "invoice": WORK},
    ),
    "starlette.to_response": (
        starlette.to_response,
        {"reply": http.plain_problem(404, "Not here.")},
    ),
    "starlette.add_handlers": (starlette.add_handlers, {"app": Starlette()}),
    "nostr.canonical_pubkey": (nostr.canonical_pubkey, {"text": "ab" * 32}),
    "nostr.npub": (nostr.npub, {"pubkey": "ab" * 32}),
    "nostr.verify_nip98": (nostr.verify_nip98, PROOF),
    "nostr.SeenEvents": (nostr.SeenEvents, {"capacity": 1}),
    "migrations.latest": (migrations.latest, {"dialect": "sqlite"}),
    "migrations.statements": (migrations.statements, {**DIALECT, "since": 0}),
    "migrations.migrate": (migrate, HOSTS_OWN),
    "migrations.migrate_async": (migrate_async, HOSTS_OWN),
    "tables.statements": (tables.statements, DIALECT),
    "tables.tables": (tables.tables, DIALECT),
    "sqlite.SQLiteRepository": (sqlite_repository, {"database": HOSTS, "timeout_s": 1}),
    "sqlite.AsyncSQLiteRepository": (
        AsyncSQLiteRepository,
        {"database": "ledger.db", "timeout_s": 1},
    ),
    "postgres.PostgresRepository": (postgres_repository, {"database": DSN, **CONNECTIONS}),
    "postgres.AsyncPostgresRepository": (
        AsyncPostgresRepository,
        {"database": URL, **CONNECTIONS},
    ),
    "asyncpg.AsyncpgRepository": (AsyncpgRepository, {"database": URL, **CONNECTIONS}),
    "sqlalchemy.SQLAlchemyRepository": (on_sqlalchemy, HOSTS_OWN),
    "sqlalchemy.AsyncSQLAlchemyRepository": (on_sqlalchemy_async, HOSTS_OWN),
}
