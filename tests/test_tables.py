"""The ready-made tables: what is noted is read back, and what is impossible is refused."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from freetier import InvalidInput, jobs, sessions, tables
from freetier.jobs import Invoice, Job
from freetier.tables import Tables
from freetier.values import to_us

from .job_examples import LATER, NOW, created, situations
from .postgres_server import Server, database_name
from .test_sessions import DEPOSIT, active, new, under_way

SITUATIONS = situations()
SCHEMA = """the "host's" own"""
Statement = Callable[[AsyncConnection, Tables], Coroutine[Any, Any, Any]]
Run = Callable[[Statement], Any]


@pytest.fixture(params=["aiosqlite", "psycopg", "asyncpg"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Runs something on a connection to a database that has the tables, and commits."""
    if request.param == "aiosqlite":
        yield runner(f"sqlite+aiosqlite:///{tmp_path / 'host.db'}", "sqlite", None)
        return
    server: Server = request.getfixturevalue("postgres_server")
    dsn = server.create()
    url = dsn.replace("postgresql://", f"postgresql+{request.param}://")
    yield runner(url, "postgres", SCHEMA)
    server.drop(database_name(dsn))


def runner(url: str, dialect: str, schema: str | None) -> Run:
    there = tables.tables(dialect, schema)

    async def make() -> None:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                if schema:
                    quoted = schema.replace('"', '""')
                    await connection.exec_driver_sql(f'CREATE SCHEMA "{quoted}"')
                for statement in tables.statements(dialect, schema):
                    await connection.exec_driver_sql(statement)
        finally:
            await engine.dispose()

    async def perform(what: Statement) -> Any:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                if dialect == "sqlite":
                    await connection.exec_driver_sql("PRAGMA foreign_keys = ON")
                return await what(connection, there)
        finally:
            await engine.dispose()

    asyncio.run(make())
    return lambda what: asyncio.run(perform(what))


async def rows(
    connection: AsyncConnection, sql: str, values: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    return [dict(row) for row in (await connection.execute(text(sql), values)).mappings()]


def test_every_job_is_read_back(run: Run) -> None:
    """A job in any situation is read back as it was, and found by its invoices."""

    async def there_and_back(connection: AsyncConnection, there: Tables) -> None:
        table = there.jobs
        for number, situation in enumerate(SITUATIONS.values()):
            job = other(situation, number)
            (inserted,) = await insert(connection, there, job)
            assert inserted["version"] == job.version
            assert await insert(connection, there, job) == []
            (found,) = await rows(connection, table.select, {"id": job.id})
            assert table.record(found) == job
            assert bool(found["free_tier"]) is job.free_tier
            for made in (job.eval_invoice, job.work_invoice):
                if made:
                    sought = {"invoice_id": made.id}
                    (found,) = await rows(connection, there.job_by_invoice, sought)
                    assert table.record(found) == job

    run(there_and_back)


async def insert(connection: AsyncConnection, there: Tables, job: Job) -> Any:
    """A job that may be refunded already."""
    if job.refund.payment_hash is not None:
        taken = {"payment_hash": job.refund.payment_hash, "id": job.id}
        assert await rows(connection, there.job_refund, taken)
    return await rows(connection, there.jobs.insert, there.jobs.row(job))


def other(job: Job, number: int) -> Job:
    """The job under a name of its own; its invoices too."""

    def renamed(invoice: Invoice | None) -> Invoice | None:
        return invoice and evolve(invoice, id=f"{invoice.id}-{number}")

    refund = evolve(
        job.refund, payment_hash=job.refund.payment_hash and f"{job.refund.payment_hash}-{number}"
    )
    return evolve(
        job,
        id=f"job-{number}",
        eval_invoice=renamed(job.eval_invoice),
        work_invoice=renamed(job.work_invoice),
        refund=refund,
    )


def test_sessions_are_read_back(run: Run) -> None:
    """A session and its requests are read back as they were."""

    async def there_and_back(connection: AsyncConnection, there: Tables) -> None:
        session, request = under_way()
        await rows(connection, there.sessions.insert, there.sessions.row(session))
        requests = there.session_requests
        await rows(connection, requests.insert, requests.row(request))
        (found,) = await rows(connection, there.session_by_invoice, {"invoice_id": "hash-deposit"})
        assert there.sessions.record(found) == session
        (found,) = await rows(connection, requests.select, {"id": "request"})
        assert requests.record(found) == request
        (found,) = await rows(connection, requests.unfinished, {"after": "", "most": 9})
        assert requests.record(found) == request
        assert await rows(connection, there.sessions.unfinished, {"after": "", "most": 9}) == []

    run(there_and_back)


def test_what_expired_is_found(run: Run) -> None:
    """What ended for want of a payment is found, since a time, page by page, and nothing else."""

    async def listed(connection: AsyncConnection, there: Tables) -> None:
        table = there.jobs
        made = [
            evolve(other(job, number), updated_at=NOW + timedelta(seconds=number // 2))
            for number, job in enumerate([*SITUATIONS.values()] * 3)
        ]
        for job in made:
            await insert(connection, there, job)
        for since in (NOW - timedelta(seconds=1), NOW + timedelta(seconds=9)):
            found: list[Job] = []
            values = {"since_us": to_us(since), "after": "", "most": 2}
            while page := await rows(connection, table.expired, values):
                found += [table.record(row) for row in page]
                values |= {"since_us": to_us(found[-1].updated_at), "after": found[-1].id}
            wanted = [job for job in made if job.expired and job.updated_at > since]
            assert [job.id for job in found] == [
                job.id for job in sorted(wanted, key=lambda job: (job.updated_at, job.id))
            ]
            assert wanted
        session = sessions.expired(sessions.invoiced(new(), DEPOSIT, at=NOW), at=LATER)
        await rows(connection, there.sessions.insert, there.sessions.row(session))
        since_then = {"since_us": to_us(NOW), "after": "", "most": 9}
        (expired,) = await rows(connection, there.sessions.expired, since_then)
        assert there.sessions.record(expired) == session
        assert await rows(connection, there.session_requests.expired, since_then) == []

    run(listed)


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (lambda there: there.jobs.unfinished, "paid_jobs_unfinished"),
        (lambda there: there.jobs.expired, "paid_jobs_expired"),
        (lambda there: there.sessions.unfinished, "paid_sessions_unfinished"),
        (lambda there: there.sessions.expired, "paid_sessions_expired"),
        (lambda there: there.session_requests.unfinished, "paid_session_requests_unfinished"),
        (lambda there: there.promised_elsewhere, "paid_sessions_promised"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rounds_read_by_an_index(run: Run, statement: Callable[[Tables], str], index: str) -> None:
    """What a service asks for again and again has an index of its own, on both databases."""

    async def planned(connection: AsyncConnection, there: Tables) -> None:
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            await connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        values = {"after": "", "since_us": 0, "most": 9, "identity": "ada", "session_id": "x"}
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        sql = text(f"{explain} {statement(there)}")
        bound = {name: values[name] for name in values if f":{name}" in str(sql)}
        plan = (await connection.execute(sql, bound)).all()
        assert index in str(plan)

    run(planned)


def test_what_is_promised_elsewhere_is_found(run: Run) -> None:
    """It is the sum over an identity's sessions but one; 0 where there are none."""

    async def summed(connection: AsyncConnection, there: Tables) -> None:
        session, _ = under_way()
        assert session.promised_sats == 60
        for number, identity in enumerate(["ada", "ada", "ada", "bob", None]):
            invoice = evolve(DEPOSIT, id=f"hash-{number}")
            made = evolve(session, id=f"session-{number}", identity=identity, invoice=invoice)
            await rows(connection, there.sessions.insert, there.sessions.row(made))
        for identity, session_id, sats in (
            ("ada", "session-0", 120),
            ("ada", "session-3", 180),
            ("bob", "session-3", 0),
            (None, "session-0", 0),
        ):
            sought = {"identity": identity, "session_id": session_id}
            (found,) = await rows(connection, there.promised_elsewhere, sought)
            assert list(found.values()) == [sats]

    run(summed)


def test_of_two_writers_one_is_told(run: Run) -> None:
    """An event on a record that somebody else has changed since it was read writes nothing."""

    async def twice(connection: AsyncConnection, there: Tables) -> None:
        table, new = there.jobs, created()
        await rows(connection, table.insert, table.row(new))
        invoice = Invoice("hash", "lnbc", 3, LATER)
        first = jobs.invoiced(new, invoice, at=NOW)
        second = jobs.invoiced(new, evolve(invoice, id="hash-2"), at=NOW)
        second = jobs.paid(second, Invoice("hash-2", "lnbc", 3, LATER), at=NOW)
        assert len(await rows(connection, table.update, table.change(new, first))) == 1
        assert await rows(connection, table.update, table.change(new, second)) == []
        (found,) = await rows(connection, table.select, {"id": "job"})
        assert table.record(found) == first

    run(twice)


def test_what_is_unfinished_is_found(run: Run) -> None:
    """Every job for which the host can do something is found, page by page, and no other."""

    async def listed(connection: AsyncConnection, there: Tables) -> None:
        table = there.jobs
        made = [other(job, number) for number, job in enumerate(SITUATIONS.values())]
        for job in made:
            await insert(connection, there, job)
        found: list[str] = []
        while page := await rows(
            connection, table.unfinished, {"after": found[-1] if found else "", "most": 4}
        ):
            found += [row["id"] for row in page]
        waiting = (None, jobs.Step.DESTINATION)
        assert found == sorted(job.id for job in made if jobs.next_step(job) not in waiting)

    run(listed)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "paid"},
        {"refund_sats": 41, "refund_state": "pending"},
        {"refund_sats": -1},
        {"absorbed_sats": 101},
        {"work_amount_sats": 101},
        {"version": 0},
        {"tier": None},
    ],
    ids=str,
)
def test_a_table_refuses_what_cannot_be(run: Run, changes: dict[str, Any]) -> None:
    """A state that is none, a refund above what was asked, more absorbed than the price: no."""

    async def insert(connection: AsyncConnection, there: Tables) -> None:
        row = there.jobs.row(SITUATIONS["executing"])
        await rows(connection, there.jobs.insert, row | changes)

    with pytest.raises(IntegrityError):
        run(insert)


@pytest.mark.parametrize("changes", [{"balance_sats": -1}, {"held_sats": 101}], ids=str)
def test_a_balance_below_0_is_refused(run: Run, changes: dict[str, Any]) -> None:
    """The table itself refuses a session that is overdrawn, or that holds more than it has."""

    async def insert(connection: AsyncConnection, there: Tables) -> None:
        await rows(connection, there.sessions.insert, there.sessions.row(active()) | changes)

    with pytest.raises(IntegrityError):
        run(insert)


def test_one_invoice_is_of_one_job(run: Run) -> None:
    """Two jobs with the same invoice cannot be."""

    async def insert(connection: AsyncConnection, there: Tables) -> None:
        for name in ("one", "two"):
            job = evolve(SITUATIONS["executing"], id=name)
            await rows(connection, there.jobs.insert, there.jobs.row(job))

    with pytest.raises(IntegrityError):
        run(insert)


def test_one_payment_refunds_one_record(run: Run) -> None:
    """A payment is of the job or session that took it first, also of one that took it before."""

    async def take(connection: AsyncConnection, there: Tables) -> None:
        for sql, record_id, taken in (
            (there.job_refund, "one", True),
            (there.job_refund, "one", True),
            (there.job_refund, "two", False),
            (there.session_refund, "one", False),
        ):
            values = {"payment_hash": "hash", "id": record_id}
            assert bool(await rows(connection, sql, values)) is taken

    run(take)


@pytest.mark.parametrize("whose", ["nobody", "session", "job two"])
def test_no_refund_by_anothers_payment(run: Run, whose: str) -> None:
    """The tables refuse a refund by a payment that its record has not taken."""

    async def begin(connection: AsyncConnection, there: Tables) -> None:
        job = SITUATIONS["refund begun"]
        taken = {"payment_hash": job.refund.payment_hash, "id": job.id}
        if whose == "session":
            await rows(connection, there.session_refund, taken)
        elif whose == "job two":
            await rows(connection, there.job_refund, taken | {"id": "two"})
        await rows(connection, there.jobs.insert, there.jobs.row(job))

    with pytest.raises(IntegrityError):
        run(begin)


def test_decimals_keep_every_digit() -> None:
    """A price in USD is read back with the digits that it had."""
    table = tables.tables("sqlite").jobs
    exact = Decimal("0.1000000000000000000000000000001")
    job = evolve(SITUATIONS["priced"], estimated_cost_usd=exact)
    row = table.row(job)
    assert row["estimated_cost_usd"] == str(exact)
    assert table.record(row | {"free_tier": 0}).estimated_cost_usd == exact


def test_dialects_are_named() -> None:
    """Another database than the two is refused, and so is a schema on SQLite."""
    for arguments in (("mysql", None), ("sqlite", "schema")):
        with pytest.raises(InvalidInput):
            tables.statements(*arguments)
        with pytest.raises(InvalidInput):
            tables.tables(*arguments)


def test_no_request_without_its_session() -> None:
    """A request of a session that is not there is refused."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in ("PRAGMA foreign_keys = ON", *tables.statements("sqlite")):
            connection.execute(statement)
        requests = tables.tables("sqlite").session_requests
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(requests.insert, requests.row(under_way()[1])).fetchall()


def test_a_session_owes_what_it_had(run: Run) -> None:
    """A closed session is unfinished until its refund is paid."""

    async def close(connection: AsyncConnection, there: Tables) -> None:
        table = there.sessions
        addressed = sessions.refund_to(active(), "ada@example.org", at=NOW)
        closed = sessions.closed(addressed, at=NOW)
        await rows(connection, table.insert, table.row(closed))
        (found,) = await rows(connection, table.unfinished, {"after": "", "most": 1})
        assert table.record(found) == closed

    run(close)
