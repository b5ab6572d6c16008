"""The how-to's LNbits extension, in a real LNbits, on SQLite and on Postgres."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psycopg
import pytest
from attrs import frozen

from freetier import FreeTier, FreeTierPolicy, GrantState, Kind, Limit, Repository
from freetier.migrations import latest
from freetier.postgres import PostgresRepository
from freetier.sqlite import SQLiteRepository
from tests.doc_pages import DOCS, blocks, read
from tests.lnbits_server import Host, LNbits, host
from tests.postgres_server import Server, database_name

EXTENSION = Path(__file__).parent / "lnbits_extension"
PAGE = DOCS / "how-to" / "embed-in-an-lnbits-extension.md"
PATIENCE_S = 30

BLOCKS = """
import asyncio, json
from ft.ledger import JOBS, db, ledger
from freetier import Request

async def reserve(conn, name):
    await ledger(conn).reserve(Request(name, "dave", "trusted", 10))

async def insert(conn, name):
    sql = f"INSERT INTO {JOBS} (id, question, paid) VALUES (:id, 'Why?', FALSE)"
    await conn.execute(sql, {"id": name})

async def left_by(name, *steps):
    try:
        async with db.connect() as conn:
            for step in steps:
                await step(conn, name)
            raise ZeroDivisionError
    except ZeroDivisionError:
        async with db.connect() as conn:
            sql = f"SELECT count(*) AS jobs FROM {JOBS} WHERE id = :id"
            jobs = (await conn.fetchone(sql, {"id": name}))["jobs"]
            grants = [g async for g in ledger(conn).open_grants() if g.request_id == name]
            return {"jobs": jobs, "grants": len(grants)}

async def main():
    print(json.dumps({
        "reserve": await left_by("block-1", reserve),
        "reserve, insert": await left_by("block-2", reserve, insert),
        "insert, reserve": await left_by("block-3", insert, reserve),
    }))

asyncio.run(main())
"""
"""What a block of LNbits' connection leaves that fails after these steps."""

TWO_NAMES = """
import asyncio
from ft.ledger import db, ledger
from ft.migrations import m001_ledger, m002_jobs
from freetier import Request
from sqlalchemy.exc import OperationalError

async def main():
    async with db.connect() as conn:
        await m001_ledger(conn)
        await m002_jobs(conn)
    async with db.connect() as conn:
        await ledger(conn).reserve(Request("job", "alice", "trusted", 10))
        try:
            await conn.execute("INSERT INTO ft.jobs (id, question, paid) VALUES ('job', 'Why?', 0)")
        except OperationalError as error:
            print(error.orig)
    async with db.connect() as conn:
        print((await ledger(conn).pool_status()).open_grants)

asyncio.run(main())
"""

STATEMENTS = """
import asyncio
from lnbits.db import SQLITE, Database
from sqlalchemy import text
from freetier import migrations

async def main():
    db = Database("ext_other")
    dialect, schema = ("sqlite", None) if db.type == SQLITE else ("postgres", db.schema)
    async with db.connect() as conn:
        for statement in migrations.statements(dialect, schema):
            await conn.conn.execute(text(statement))
        await conn.conn.commit()
        print(await migrations.migrate_async(conn.conn, schema))

asyncio.run(main())
"""


@frozen
class Shop:
    """The extension in a running LNbits, and its ledger, read beside it."""

    host: Host
    lnbits: LNbits
    ledger: FreeTier

    def order(
        self, job: str, identity: str, *, tier: str = "trusted", question: str = "Why?"
    ) -> Any:
        """What the extension answers to a new job of 120 sats; a trusted identity has 200 a day."""
        body = {
            "id": job,
            "identity": identity,
            "tier": tier,
            "price_sats": 120,
            "question": question,
        }
        return self.lnbits.call(self.lnbits.operator, "POST", "/ft/api/v1/jobs", body)

    def check(self, payment_hash: str) -> bool:
        """Whether the extension says that it was paid."""
        path = f"/ft/api/v1/payments/{payment_hash}/check"
        paid: bool = self.lnbits.call(self.lnbits.operator, "POST", path)["paid"]
        return paid

    def kinds(self, key: str) -> list[Kind]:
        """The entries of a request, or of a payment."""
        return [entry.kind for entry in self.ledger.journal() if entry.key == key]

    def wait_for_credit(self, payment_hash: str) -> int:
        """What was credited for a payment, as soon as LNbits has told the extension."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for entry in self.ledger.journal():
                if entry.key == payment_hash:
                    return entry.balance_change
            assert time.monotonic() < deadline, "LNbits told of no payment"
            time.sleep(0.05)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("sqlite", marks=pytest.mark.lnbits),
        pytest.param("postgres", marks=pytest.mark.lnbits),
    ],
)
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("lnbits")
    if request.param == "sqlite":
        opened = on_sqlite(folder)
    else:
        opened = on_postgres(folder, request.getfixturevalue("postgres_server"))
    with opened as shop:
        yield shop


@contextmanager
def on_sqlite(folder: Path) -> Iterator[Shop]:
    made = host(folder, EXTENSION, "ft")
    file = made.folder / "data" / "ext_ft.sqlite3"
    with made.serve() as lnbits, closing(sqlite3.connect(file)) as beside:
        yield Shop(made, lnbits, ledger(SQLiteRepository(beside)))


@contextmanager
def on_postgres(folder: Path, server: Server) -> Iterator[Shop]:
    dsn = server.create()
    made = host(folder, EXTENSION, "ft", dsn.replace("postgresql:", "postgres:"))
    with made.serve() as lnbits, psycopg.connect(dsn, autocommit=True) as beside:
        yield Shop(made, lnbits, ledger(PostgresRepository(beside, schema="ft")))
    server.drop(database_name(dsn))


def ledger(repository: Repository) -> FreeTier:
    return FreeTier(FreeTierPolicy(), repository)


def test_free(shop: Shop) -> None:
    """A job that the pool pays whole has no invoice, and is settled at once."""
    answer = shop.order("free", "alice")
    assert answer == {"serve": "free", "absorb_sats": 120, "charge_sats": 0, "invoice": None}
    assert shop.kinds("free") == [Kind.RESERVE, Kind.SETTLE]


def test_partial(shop: Shop) -> None:
    """The pool's part is held until the invoice for the rest is paid; a tenth goes to the pool."""
    shop.order("partial-1", "bob")
    answer = shop.order("partial-2", "bob")
    assert (answer["serve"], answer["absorb_sats"], answer["charge_sats"]) == ("partial", 80, 40)
    assert shop.kinds("partial-2") == [Kind.RESERVE]
    shop.lnbits.pay(answer["invoice"]["bolt11"])
    assert shop.wait_for_credit(answer["invoice"]["payment_hash"]) == 4
    assert shop.kinds("partial-2") == [Kind.RESERVE, Kind.SETTLE]


def test_gate(shop: Shop) -> None:
    """Who has no allowance pays the whole price, and a tenth of it goes to the pool."""
    answer = shop.order("gate", "carol", tier="new")
    assert (answer["serve"], answer["absorb_sats"], answer["charge_sats"]) == ("gate", 0, 120)
    shop.lnbits.pay(answer["invoice"]["bolt11"])
    assert shop.wait_for_credit(answer["invoice"]["payment_hash"]) == 12
    assert shop.kinds("gate") == []
    grant = shop.ledger.grant("gate")
    assert (grant.state, grant.decision.bound_by) == (GrantState.UNHELD, Limit.BUDGET)


def test_told_often(shop: Shop) -> None:
    """A payment is credited once and settles once, however often the extension is told of it."""
    invoice = shop.order("often", "erin", tier="new")["invoice"]
    assert not shop.check(invoice["payment_hash"])
    shop.lnbits.pay(invoice["bolt11"])
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(shop.check, [invoice["payment_hash"]] * 24))
    shop.wait_for_credit(invoice["payment_hash"])
    assert shop.kinds(invoice["payment_hash"]) == [Kind.CREDIT]


def test_asked_often(shop: Shop) -> None:
    """A job that is asked for again, also at once, gets the same answer and the same invoice."""
    shop.order("first", "frank")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: shop.order("again", "frank"), range(24)))
    assert answers == [answers[0]] * 24
    assert answers[0]["charge_sats"] == 40
    assert shop.kinds("again") == [Kind.RESERVE]


def test_foreign_payment(shop: Shop) -> None:
    """A payment that is none of the extension's is not credited."""
    body = {"out": False, "amount": 1000, "extra": {"tag": "ft", "job": "free"}}
    made = shop.lnbits.call(shop.lnbits.operator, "POST", "/api/v1/payments", body)
    shop.lnbits.pay(made["bolt11"])
    assert shop.check(made["payment_hash"])
    assert shop.kinds(made["payment_hash"]) == []


def test_stranger(shop: Shop) -> None:
    """Only the operator may name an identity and its tier."""
    with pytest.raises(HTTPError, match="403"):
        shop.lnbits.call(shop.lnbits.caller, "GET", "/ft/api/v1/pool")


def test_refused_row(shop: Shop) -> None:
    """A job that the database refuses has no grant; the id is as good as new."""
    with pytest.raises(HTTPError, match="500"):
        shop.order("refused", "grace", question="")
    assert shop.kinds("refused") == []
    assert shop.order("refused", "grace")["absorb_sats"] == 120


def test_blocks(shop: Shop) -> None:
    """A block of LNbits' connection that fails keeps what its `execute` committed, and no more."""
    assert json.loads(shop.host.run(BLOCKS)) == {
        "reserve": {"jobs": 0, "grants": 0},
        "reserve, insert": {"jobs": 1, "grants": 1},
        "insert, reserve": {"jobs": 1, "grants": 0},
    }


def test_statements(shop: Shop) -> None:
    """The single statements, run on LNbits' connection, make the schema that `migrate` accepts."""
    assert shop.host.run(STATEMENTS).split() == [str(latest("sqlite"))]


@pytest.mark.lnbits
def test_two_names(tmp_path: Path) -> None:
    """On SQLite a transaction cannot write under both names that LNbits has for the file."""
    said = host(tmp_path, EXTENSION, "ft").run(TWO_NAMES)
    assert said.splitlines()[-2:] == ["database is locked", "0"]


def test_books(shop: Shop) -> None:
    """After all that, every balance follows from the journal."""
    assert shop.ledger.verify().ok


def test_page() -> None:
    """Each block of the page is a verbatim part of the file of the extension that it names."""
    shown = [block for block in blocks(PAGE) if block.language == "python"]
    assert {block.name for block in shown} == {file.name for file in EXTENSION.glob("*.py")}
    for block in shown:
        assert block.text in read(EXTENSION / block.name), block
