"""A ledger on a host's own connection, of every kind: what it writes is the host's to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from attrs import evolve
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import freetier
from freetier import (
    AsyncFreeTier,
    ConfigError,
    Conflict,
    Decision,
    FreeTier,
    GrantState,
    InvalidInput,
    Kind,
    OutcomeUnknown,
    Request,
    Serve,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.asyncpg import AsyncpgRepository
from freetier.repository import Deposit, Draw
from freetier.sqlalchemy import AsyncSQLAlchemyRepository, SQLAlchemyRepository
from freetier.values import Caps

from .host_connections import (
    ON_SQLITE,
    POLICY,
    EveryConnection,
    EveryPostgresConnection,
    Host,
    connected,
)

JOB = Request("job", "ada", "trusted", 120)
GATED = Request("gated", "bob", "new", 30)
REPEATABLE_READ = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
SERIALIZABLE = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"


def written(ledger: FreeTier) -> tuple[list[str], int]:
    """What a ledger shows: its entries' kinds after the seed, and how often it gated today."""
    assert ledger.verify().ok
    return [entry.kind for entry in ledger.journal(after=1)], ledger.pool_status().gated_today


def jobs(host: Host) -> list[str]:
    """The host's own rows."""
    return [job for (job,) in host.execute("SELECT id FROM job ORDER BY id")]


def add_job(host: Host, name: str) -> None:
    host.execute(f"INSERT INTO job VALUES ('{name}')")


def proposed(key: str, sats: int, budget_sats: int = 10**6) -> Draw:
    """A draw that somebody decided on: the guard has the last word."""
    at = datetime.now(UTC)
    request = Request(key, "ada", "trusted", sats)
    decision = Decision(Serve.FREE, sats, sats, 0, None, {})
    caps = Caps(budget_sats, None, None, 0, None)
    return Draw(Kind.RESERVE, request, decision, caps, at, at + timedelta(minutes=15))


def try_twice(host: Host, other: FreeTier, begin: str) -> None:
    """Somebody writes after the host's transaction, begun so, had its first look; then nobody."""
    host.begin()
    host.execute(begin)
    assert jobs(host) == []
    other.donate("gift", 1)
    with pytest.raises(StoreUnavailable):
        host.ledger.reserve(JOB)
    host.rollback()
    assert written(other) == (["donation"], 0)
    host.begin()
    host.execute(begin)
    assert jobs(host) == []
    host.ledger.reserve(JOB)
    host.commit()
    assert written(other) == (["donation", "reserve"], 0)


class TestTransaction(EveryConnection):
    """What is written belongs to the host's transaction, as the host's own rows do."""

    @pytest.mark.parametrize("kept", [True, False])
    def test_the_host_decides(self, host: Host, other: FreeTier, kept: bool) -> None:
        """Nobody sees what was written before the commit; a rollback leaves no trace of it."""
        host.begin()
        host.ledger.reserve(JOB)
        add_job(host, "job")
        host.ledger.settle("job", 100)
        host.ledger.credit("payment", 70)
        assert host.ledger.reserve(GATED).decision.serve is Serve.GATE
        assert written(other) == ([], 0)
        if kept:
            host.commit()
            assert written(other) == (["reserve", "settle", "credit"], 1)
            assert jobs(host) == ["job"]
        else:
            host.rollback()
            assert written(other) == ([], 0)
            assert jobs(host) == []
            with pytest.raises(UnknownRequest):
                other.grant("job")

    def test_a_refused_entry(self, host: Host, other: FreeTier) -> None:
        """An entry that the guard refuses raises nothing, and the host's rows are kept."""
        host.begin()
        add_job(host, "before")
        gift = Deposit(Kind.DONATION, "gift", 5)
        write = host.repository
        assert write.deposit(gift, None)
        assert write.deposit(gift, None) is None
        assert write.draw(proposed("job", 60, budget_sats=100))
        assert write.draw(proposed("job", 60)) is None
        assert write.draw(proposed("over the budget", 60, budget_sats=100)) is None
        assert write.draw(proposed("over the pool", 10_000)) is None
        no = host.ledger.decide(GATED)
        assert write.note_gate(GATED, no, datetime.now(UTC))
        assert not write.note_gate(GATED, no, datetime.now(UTC))
        add_job(host, "later")
        host.commit()
        assert written(other) == (["donation", "reserve"], 1)
        assert jobs(host) == ["before", "later"]

    def test_an_error_of_the_librarys(self, host: Host, other: FreeTier) -> None:
        """A call that ends in a `Conflict`, or is refused otherwise, leaves the transaction be."""
        host.begin()
        add_job(host, "before")
        host.ledger.reserve(JOB)
        refused: list[tuple[type[Exception], Callable[[], object]]] = [
            (Conflict, lambda: host.ledger.reserve(evolve(JOB, price_sats=121))),
            (UnknownRequest, lambda: host.ledger.settle("nobody's")),
            (InvalidInput, lambda: host.ledger.adjust("down", -20_000, note="more than it has")),
            (InvalidInput, lambda: host.ledger.reserve(evolve(JOB, tier="unknown"))),
        ]
        for error, call in refused:
            with pytest.raises(error):
                call()
        add_job(host, "later")
        host.commit()
        assert written(other) == (["reserve"], 0)
        assert jobs(host) == ["before", "later"]

    def test_a_savepoint(self, host: Host, other: FreeTier) -> None:
        """Back to a savepoint takes back what was written since, and nothing that was before."""
        host.begin()
        add_job(host, "before")
        host.ledger.donate("gift", 5)
        host.execute("SAVEPOINT here")
        host.ledger.reserve(JOB)
        host.execute("ROLLBACK TO here")
        host.ledger.record_grant(evolve(JOB, request_id="another"))
        host.commit()
        assert written(other) == (["donation", "grant"], 0)
        assert jobs(host) == ["before"]

    def test_a_commit_after_every_statement(self, host: Host, other: FreeTier) -> None:
        """A host that commits after all that it does finds each call whole."""
        steps: list[Callable[[], object]] = [
            lambda: host.ledger.reserve(JOB),
            lambda: add_job(host, "job"),
            lambda: host.ledger.settle("job", 100),
            lambda: host.ledger.credit("payment", 70),
        ]
        for step in steps:
            host.begin()
            step()
            host.commit()
        assert written(other) == (["reserve", "settle", "credit"], 0)
        assert jobs(host) == ["job"]


class TestAutocommit(EveryConnection):
    """A connection on which each statement is a transaction."""

    @pytest.fixture
    def host(self, kind: str, url: str) -> Iterator[Host]:
        with connected(kind, url, autocommit=True) as host:
            yield host

    def test_each_call_is_kept_at_once(self, host: Host, other: FreeTier) -> None:
        """What a call wrote is there for everybody, and the connection begins no transaction."""
        host.ledger.reserve(JOB)
        assert written(other) == (["reserve"], 0)
        host.ledger.settle("job", 100)
        host.ledger.reserve(GATED)
        assert written(other) == (["reserve", "settle"], 1)
        with pytest.raises(Conflict):
            host.ledger.settle("job", 101)
        add_job(host, "job")
        other.donate("gift", 1)  # waits for nobody
        assert host.ledger.verify().ok


class TestOldView(EveryConnection):
    """A transaction that still sees what was there before the ledger's last entry."""

    def test_it_is_told_to_try_again(self, kind: str, host: Host, other: FreeTier) -> None:
        """It writes nothing and is told to try again; in a new transaction it works."""
        try_twice(host, other, "BEGIN" if kind in ON_SQLITE else REPEATABLE_READ)


class TestBroken(EveryConnection):
    """A connection that cannot be used."""

    def test_closed(self, kind: str, host: Host, other: FreeTier) -> None:
        """A closed connection is an error of the library's, and nothing is written."""
        ledger, repository = host.ledger, host.repository
        host.close()
        # A file's is closed for good; in front of a server a new one is worth a try.
        error = ConfigError if kind in ("sqlite3", "aiosqlite") else StoreUnavailable
        for call in (ledger.decide, ledger.reserve):
            with pytest.raises(error, match=r"closed|no active"):
                call(JOB)
        with pytest.raises(error):
            repository.deposit(Deposit(Kind.DONATION, "gift", 5), None)
        assert written(other) == ([], 0)


class TestOnAServer(EveryPostgresConnection):
    """What can happen to a transaction on a server."""

    def test_serializable(self, host: Host, other: FreeTier) -> None:
        """So it is at the strictest level of isolation, too."""
        try_twice(host, other, SERIALIZABLE)

    def test_failed_before(self, host: Host, other: FreeTier) -> None:
        """After the host's own statement failed, nothing can be written before its rollback."""
        host.begin()
        with pytest.raises(Exception, match="division by zero"):
            host.execute("SELECT 1/0")
        with pytest.raises(StoreUnavailable, match="25P02"):
            host.ledger.reserve(JOB)
        host.rollback()
        host.begin()
        host.ledger.reserve(JOB)
        host.commit()
        assert written(other) == (["reserve"], 0)

    def test_ended_by_the_server(self, url: str, host: Host, other: FreeTier) -> None:
        """A session that the server ended has written nothing, and says so."""
        host.begin()
        host.ledger.reserve(JOB)
        ((session,),) = host.execute("SELECT pg_backend_pid()")
        with psycopg.connect(url) as operator:
            operator.execute("SELECT pg_terminate_backend(%s, 5000)", [session])
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                host.ledger.settle("job", 100)
        assert written(other) == ([], 0)

    def test_the_hosts_patience(self, url: str, host: Host) -> None:
        """How long the pool's row is waited for is what the host's `lock_timeout` says."""
        with connected("psycopg", url) as another:
            another.ledger.donate("gift", 1)
            host.begin()
            host.execute("SET LOCAL lock_timeout = 50")
            with pytest.raises(StoreUnavailable, match="55P03"):
                host.ledger.reserve(JOB)
            host.rollback()
            another.commit()
        host.begin()
        assert host.ledger.reserve(JOB).state is GrantState.OPEN
        host.commit()


BY_AND_BY = [{"stream_results": True}, {"yield_per": 10}]


@pytest.mark.parametrize("options", BY_AND_BY, ids=str)
def test_rows_by_and_by(postgres_dsn: str, options: dict[str, Any]) -> None:
    """A host may have its rows streamed, and its connection does the ledger's work all the same."""
    freetier.open(postgres_dsn, POLICY).close()
    engine = create_engine(postgres_dsn.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect().execution_options(**options) as host, host.begin():
        assert FreeTier(POLICY, SQLAlchemyRepository(host)).reserve(JOB).absorb_sats == 120
        assert host.get_execution_options().items() >= options.items()
    engine.dispose()


@pytest.mark.parametrize("options", BY_AND_BY, ids=str)
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_rows_by_and_by_async(postgres_dsn: str, driver: str, options: dict[str, Any]) -> None:
    """So may an async host."""
    freetier.open(postgres_dsn, POLICY).close()

    async def reserve() -> None:
        url = postgres_dsn.replace("postgresql:", f"postgresql+{driver}:")
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.connect() as host:
            await host.execution_options(**options)
            ledger = AsyncFreeTier(POLICY, AsyncSQLAlchemyRepository(host))
            assert (await ledger.reserve(JOB)).absorb_sats == 120

    asyncio.run(reserve())


@pytest.mark.parametrize("through_sqlalchemy", [True, False])
def test_a_hosts_limit_on_statements(postgres_dsn: str, through_sqlalchemy: bool) -> None:
    """What asyncpg's `command_timeout` breaks off is an error of ours, and nothing is written."""
    limit = {"command_timeout": 0.2}

    async def reserve() -> None:
        if through_sqlalchemy:
            url = postgres_dsn.replace("postgresql:", "postgresql+asyncpg:")
            engine = create_async_engine(url, connect_args=limit, poolclass=NullPool)
            async with engine.connect() as host:
                await AsyncFreeTier(POLICY, AsyncSQLAlchemyRepository(host)).reserve(JOB)
            return
        connection = await asyncpg.connect(postgres_dsn, **limit)
        try:
            async with connection.transaction():
                await AsyncFreeTier(POLICY, AsyncpgRepository(connection)).reserve(JOB)
        finally:
            await connection.close()

    with freetier.open(postgres_dsn, POLICY) as other:
        with connected("psycopg", postgres_dsn) as holder:
            holder.ledger.donate("gift", 1)
            with pytest.raises(OutcomeUnknown, match="in time"):
                asyncio.run(reserve())
            holder.commit()
        assert written(other) == (["donation"], 0)
