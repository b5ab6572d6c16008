"""The library's own connections to Postgres: how they open, what they set, what they refuse."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import freetier
from freetier import AsyncFreeTier, ConfigError, SchemaError, StoreReadOnly, StoreUnavailable
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository

from .drivers import POLICY, Driver, every_driver, job, opened, rows
from .postgres_server import OwnServer, database_name, server

ROLES = """
CREATE ROLE freetier_protected LOGIN PASSWORD 'right';
CREATE ROLE freetier_barred NOLOGIN;
CREATE ROLE freetier_full LOGIN CONNECTION LIMIT 0;
CREATE ROLE freetier_poor LOGIN;
CREATE ROLE freetier_reader LOGIN;
ALTER ROLE freetier_reader SET default_transaction_read_only = on;
"""


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    """A server with roles that may little, one of which needs a password."""
    with server() as own:
        rules = own.data / "pg_hba.conf"
        rules.write_text("local all freetier_protected scram-sha-256\n" + rules.read_text())
        os.kill(own.process, signal.SIGHUP)
        with psycopg.connect(own.dsn(), autocommit=True) as connection:
            connection.execute(ROLES)
        yield own


def failure(driver: Driver, dsn: str) -> Exception:
    """What opening raises; with all that it came from it shows no password."""
    with pytest.raises(freetier.FreeTierError) as raised, opened(driver, dsn):
        pass
    assert "wrong" not in "".join(traceback.format_exception(raised.value))
    return raised.value


@every_driver
def test_who_is_not_let_in(own: OwnServer, driver: Driver) -> None:
    """A password, role or database that is not right is a ConfigError that names it."""
    password = own.dsn(user="freetier_protected") + "&password=wrong"
    cases = {
        password: "freetier_protected",
        own.dsn(user="freetier_nobody"): "freetier_nobody",
        own.dsn(user="freetier_barred"): "freetier_barred",
        own.dsn("freetier_nowhere"): "freetier_nowhere",
    }
    for dsn, name in cases.items():
        error = failure(driver, dsn)
        assert type(error) is ConfigError
        assert name in str(error)


@every_driver
@pytest.mark.parametrize("rest", ["h:wrong/db", "[::wrong/db", "h/db?wrong"])
def test_a_url_that_cannot_be_read(driver: Driver, rest: str) -> None:
    """It is a ConfigError, or nobody answers there; neither shows the password."""
    error = failure(driver, f"postgresql://ada:wrong@{rest}")
    assert type(error) in (ConfigError, StoreUnavailable)


@every_driver
@pytest.mark.parametrize(
    "parameter", ["foo=bar", "options=-cfoo%3Dbar", "sslmode=nope", "application_name=%zz"]
)
def test_a_parameter_that_nobody_knows(own: OwnServer, driver: Driver, parameter: str) -> None:
    """It is a ConfigError with each driver: to try again is of no use."""
    dsn = own.dsn()
    assert type(failure(driver, f"{dsn}{'&' if '?' in dsn else '?'}{parameter}")) is ConfigError


@every_driver
def test_a_role_without_rights(own: OwnServer, driver: Driver) -> None:
    """A role that may not make the schema is a ConfigError."""
    dsn = own.create()
    error = failure(driver, own.dsn(database_name(dsn), "freetier_poor"))
    assert type(error) is ConfigError
    assert "permission denied" in str(error)


@every_driver
def test_no_room_for_a_connection(own: OwnServer, driver: Driver) -> None:
    """A server that takes no more connections is unavailable."""
    assert type(failure(driver, own.dsn(user="freetier_full"))) is StoreUnavailable


@every_driver
def test_a_server_that_is_stopped(driver: Driver) -> None:
    """Nobody opens a ledger on it: it is unavailable."""
    with server() as stopped:
        stopped.stop("fast")
        assert type(failure(driver, stopped.dsn())) is StoreUnavailable


@every_driver
def test_a_role_that_may_only_read(own: OwnServer, driver: Driver) -> None:
    """It reads a ledger that is there, and cannot write or make one."""
    dsn = own.create()
    read_only = own.dsn(database_name(dsn), "freetier_reader")
    assert type(failure(driver, read_only)) is StoreReadOnly
    with opened(driver, dsn):
        pass
    with psycopg.connect(dsn) as connection:
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO freetier_reader")
    with opened(driver, read_only) as ledger:
        assert ledger.pool_status().balance_sats == POLICY.seed_sats
        with pytest.raises(StoreReadOnly):
            ledger.reserve(job("job"))


@every_driver
def test_a_schema_that_is_gone(postgres_dsn: str, driver: Driver) -> None:
    """Tables that are dropped under an open ledger are a SchemaError."""
    with opened(driver, postgres_dsn) as ledger:
        with psycopg.connect(postgres_dsn) as connection:
            connection.execute("DROP TABLE freetier_journal")
        with pytest.raises(SchemaError, match="freetier_journal"):
            ledger.reserve(job("job"))


@every_driver
def test_a_ledger_that_is_closed(postgres_dsn: str, driver: Driver) -> None:
    """Its calls raise ConfigError; closing it again is fine."""
    with opened(driver, postgres_dsn) as ledger:
        ledger.close()
        ledger.close()
        with pytest.raises(ConfigError, match="closed"):
            ledger.pool_status()


@pytest.mark.parametrize("driver", [AsyncPostgresRepository, AsyncpgRepository])
def test_a_ledger_that_is_not_open(driver: Driver) -> None:
    """An async one says how to open it."""
    ledger = AsyncFreeTier(POLICY, driver("postgresql:///nowhere"))
    with pytest.raises(ConfigError, match="async with"):
        asyncio.run(ledger.pool_status())


FORK = """
import asyncio, os, sys
from freetier import AsyncFreeTier, ConfigError, AsyncFreeTier, FreeTier, FreeTierPolicy
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository

def in_a_child(use):
    child = os.fork()
    if child == 0:
        try:
            use()
        except ConfigError as error:
            os._exit(0 if "before the fork" in str(error) else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0

async def through(driver):
    async with driver(sys.argv[1]) as repository:
        ledger = AsyncFreeTier(FreeTierPolicy(), repository)
        await ledger.seed()
        in_a_child(lambda: ledger.pool_status().send(None))
        await ledger.pool_status()

with PostgresRepository(sys.argv[1]) as repository:
    ledger = FreeTier(FreeTierPolicy(), repository)
    ledger.seed()
    in_a_child(ledger.pool_status)
    ledger.pool_status()
asyncio.run(through(AsyncPostgresRepository))
asyncio.run(through(AsyncpgRepository))
"""


def test_a_fork(postgres_dsn: str) -> None:
    """A child of the process that opened a ledger is told so; the parent's ledger goes on."""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run([*command, postgres_dsn], check=False, timeout=60, capture_output=True)
    assert (done.returncode, done.stderr.decode()) == (0, "")


@every_driver
def test_more_callers_than_connections(postgres_dsn: str, driver: Driver) -> None:
    """20 threads of a ledger with two connections wait for them, and all are served."""
    with opened(driver, postgres_dsn, connections=2) as ledger, ThreadPoolExecutor(20) as threads:
        grants = list(threads.map(lambda n: ledger.reserve(job(f"job-{n}")), range(200)))
        assert [grant.absorb_sats for grant in grants] == [5] * 200
        back_ends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert rows(ledger, back_ends) == [(2,)]
        assert ledger.verify().ok


SETTINGS = (
    "SELECT name, setting FROM pg_settings WHERE source = 'session'"
    " OR name IN ('lock_timeout', 'statement_timeout', 'synchronous_commit') ORDER BY name"
)


@every_driver
def test_what_is_set_on_a_session(own: OwnServer, driver: Driver) -> None:
    """Waits end with the deadline, and what is acknowledged is flushed, whatever the server's way.

    A host that set a stronger `synchronous_commit` keeps it.
    """
    dsn = own.create()
    with opened(driver, dsn, timeout_s=7) as ledger:
        assert dict(rows(ledger, SETTINGS)) == {
            "default_transaction_isolation": "read committed",
            "enable_seqscan": "off",
            "lock_timeout": "7000",
            "statement_timeout": "7000",
            "synchronous_commit": "on",
        }
    with psycopg.connect(dsn) as connection:
        name = database_name(dsn)
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = remote_apply".encode())
    with opened(driver, dsn) as ledger:
        assert dict(rows(ledger, SETTINGS))["synchronous_commit"] == "remote_apply"


PREPARED = (
    "SELECT statement FROM pg_prepared_statements"
    " WHERE statement LIKE '%.freetier%' ORDER BY prepare_time"
)


def use(ledger: freetier.FreeTier, sats: int) -> None:
    """Every statement of the library, with figures of this size."""
    ledger.donate(f"gift-{sats}", sats, note="thanks")
    ledger.credit(f"payment-{sats}", sats)
    for name, end in (("kept", ledger.settle), ("back", ledger.release)):
        request = freetier.Request(f"{name}-{sats}", f"{name}-{sats}", "elite", sats)
        ledger.decide(request)
        ledger.reserve(request)
        end(request.request_id)
    ledger.record_grant(freetier.Request(f"paid-{sats}", f"payer-{sats}", "elite", sats))
    ledger.reserve(freetier.Request(f"gate-{sats}", "ada", "new", sats))
    ledger.sweep()
    list(ledger.open_grants())
    assert ledger.verify().ok


@every_driver
def test_statements_are_prepared_once(postgres_dsn: str, driver: Driver) -> None:
    """A statement is prepared once, not once for each size of its numbers."""
    with opened(driver, postgres_dsn, connections=1) as ledger:
        use(ledger, 1)
        prepared = rows(ledger, PREPARED)
        assert any("INSERT INTO" in text for (text,) in prepared)
        for sats in (300, 70_000, 900_000):
            use(ledger, sats)
        ledger.donate("a gift beyond 32 bits", 10**12, note="thanks")
        assert rows(ledger, PREPARED) == prepared


@every_driver
def test_no_plan_of_an_empty_ledger_outlives_it(postgres_dsn: str, driver: Driver) -> None:
    """Planned when nobody had been gated, and that was known, a look still reads one gate."""

    def gates_read(ledger: freetier.FreeTier) -> int:
        rows(ledger, "SELECT pg_stat_force_next_flush()")
        found = "SELECT CAST(sum(idx_tup_read) AS BIGINT) FROM pg_stat_user_indexes"
        ((number,),) = rows(ledger, f"{found} WHERE relname LIKE '%gate'")
        return int(number)

    with opened(driver, postgres_dsn, connections=1) as ledger:
        for number in range(200):
            ledger.reserve(job(f"job-{number}"))
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        for number in range(50):
            ledger.reserve(freetier.Request(f"gate-{number}", "ada", "new", 5))
        before = gates_read(ledger)
        for number in range(50):
            ledger.decide(freetier.Request(f"gate-{number}", "ada", "new", 5))
        assert gates_read(ledger) - before == 50


@every_driver
def test_through_a_pooler_nothing_stays(own: OwnServer, driver: Driver) -> None:
    """Told of a pooler, the library prepares nothing by name and sets nothing on a session."""
    with opened(driver, own.create(), connections=1, through_pooler=True) as ledger:
        use(ledger, 1)
        assert rows(ledger, PREPARED) == []
        assert dict(rows(ledger, SETTINGS)) == {
            "lock_timeout": "0",
            "statement_timeout": "0",
            "synchronous_commit": "off",
        }


CLOCKLESS = """
import datetime, sys, time
import psycopg_pool  # it is compiled for the real datetime

class Clockless(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        raise AssertionError("the client's clock was read")

datetime.datetime = Clockless
time.time = time.time_ns = lambda: 0
import freetier
from freetier import FreeTierPolicy, Request

with freetier.open(sys.argv[1], FreeTierPolicy()) as ledger:
    grant = ledger.reserve(Request("job", "ada", "elite", 5))
    ledger.settle("job")
    print(grant.reserved_at.isoformat())
"""


def test_time_comes_from_the_database(postgres_dsn: str) -> None:
    """A client that has no clock gets grants with the server's time."""
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        clock = (
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
        )
        (before,) = connection.execute(clock).fetchone() or ("",)
        command = [sys.executable, "-W", "error", "-c", CLOCKLESS, postgres_dsn]
        done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
        (after,) = connection.execute(clock).fetchone() or ("",)
    assert (done.returncode, done.stderr) == (0, "")
    assert before <= done.stdout <= f"{after}+00:00\n"
