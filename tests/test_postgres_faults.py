"""Postgres under load and under attack: what is retried, and that nothing is lost or doubled."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from time import sleep
from typing import cast

import psycopg
import pytest

from freetier import (
    FreeTier,
    FreeTierError,
    Kind,
    OutcomeUnknown,
    StoreFull,
    StoreUnavailable,
)
from freetier._patience import Patience
from freetier.postgres import PostgresRepository
from freetier.testing.async_contract import Opening, blocking

from .drivers import POLICY, Driver, every_driver, job, opened
from .figures import Count
from .kept_folder import kept_folder
from .postgres_server import OwnServer, Stop, database_name, server
from .reply_cutter import cutter

Connection = psycopg.Connection[tuple[object, ...]]

PATIENT_S = 60
"""Longer than any restart takes."""
HOSTS = 6


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was tried again, and why."""
    causes: list[str] = []
    pause = Patience.pause

    def counted(self: Patience, error: FreeTierError) -> float:
        seconds = pause(self, error)
        causes.append(str(error))
        return seconds

    monkeypatch.setattr(Patience, "pause", counted)
    return causes


@pytest.fixture
def other(postgres_dsn: str) -> Iterator[Connection]:
    """Somebody else's connection, in a transaction from its first statement on."""
    with closing(psycopg.connect(postgres_dsn)) as connection:
        yield connection


def wait_for(connection: Connection, waits: str) -> None:
    """Until a back-end of the same database waits for this kind of lock."""
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %s"
    while connection.execute(waiting, [waits]).fetchone() is None:
        pass


HOLD = "SELECT FROM freetier_pool FOR UPDATE"


@every_driver
def test_a_lock_that_is_held(postgres_dsn: str, other: Connection, driver: Driver) -> None:
    """A call ends at its deadline, while somebody still has the lock; then calls work again."""
    with opened(driver, postgres_dsn, timeout_s=1) as ledger:
        other.execute(HOLD)
        with pytest.raises(StoreUnavailable):
            ledger.reserve(job("job"))
        other.rollback()
        assert ledger.reserve(job("job")).absorb_sats == 5
        assert len(list(ledger.journal(after=1))) == 1


@every_driver
def test_a_deadlock(
    postgres_dsn: str, other: Connection, driver: Driver, retried: list[str]
) -> None:
    """The library's call is the victim, tries again, and writes its entry once."""
    name = database_name(postgres_dsn)
    other.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'".encode())
    other.commit()
    with (
        opened(driver, postgres_dsn) as ledger,
        closing(psycopg.connect(postgres_dsn)) as third,
        ThreadPoolExecutor(2) as threads,
    ):
        ledger.reserve(job("before"))
        # Postgres looks for a cycle once per wait. So the library's wait must be what closes it:
        # it has the pool's row and is kept at its request's lock until the other waits for it.
        third.execute("SELECT pg_advisory_xact_lock(hashtextextended('public main job', 0))")
        call = threads.submit(ledger.reserve, job("job"))
        wait_for(third, "advisory")
        other.execute("SET deadlock_timeout = '1min'")  # who looks first is the victim
        other.execute("LOCK TABLE freetier_usage IN EXCLUSIVE MODE")
        crossing = threads.submit(other.execute, HOLD)
        wait_for(third, "transactionid")
        third.rollback()
        crossing.result()
        other.commit()
        assert call.result().absorb_sats == 5
        assert retried  # once, or again where it is back before the other has the row
        assert all("40P01" in error for error in retried)
        assert [entry.key for entry in ledger.journal(after=1)] == ["before", "job"]


@every_driver
def test_a_serialization_failure(
    postgres_dsn: str, other: Connection, driver: Driver, retried: list[str]
) -> None:
    """Where a host's default is REPEATABLE READ, a call that meets another's commit tries again."""
    name = database_name(postgres_dsn)
    isolation = "default_transaction_isolation = 'repeatable read'"
    other.execute(f"ALTER DATABASE {name} SET {isolation}".encode())
    other.commit()
    # On its own sessions the library sets READ COMMITTED; through a pooler it sets nothing.
    with (
        opened(driver, postgres_dsn, through_pooler=True) as ledger,
        ThreadPoolExecutor(1) as thread,
    ):
        FreeTier(POLICY, PostgresRepository(other)).donate("gift", 1)
        call = thread.submit(ledger.reserve, job("job"))
        wait_for(other, "transactionid")
        other.commit()
        assert call.result().absorb_sats == 5
        assert len(retried) == 1
        assert "40001" in retried[0]
        assert [entry.key for entry in ledger.journal(after=1)] == ["gift", "job"]


class Load:
    """Hosts that reserve, settle and donate without end, and what they were answered."""

    def __init__(self, ledger: FreeTier) -> None:
        self._ledger = ledger
        self._stop = threading.Event()
        self._hosts: list[Future[None]] = []
        self.acknowledged: dict[tuple[Kind, str], int] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run them, until the block ends; what goes wrong with one is raised."""
        with ThreadPoolExecutor(HOSTS) as threads:
            self._hosts = [threads.submit(self._work, host) for host in range(HOSTS)]
            try:
                yield
            finally:
                self._stop.set()
                for host in self._hosts:
                    host.result()

    def advance(self, answers: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.acknowledged) + answers
        while len(self.acknowledged) < wanted and not any(host.done() for host in self._hosts):
            sleep(0.001)

    def _work(self, host: int) -> None:
        for number in count():
            if self._stop.is_set():
                return
            self._serve(f"{number}-of-{host}", number % 7)

    def _serve(self, key: str, cost_sats: int) -> None:
        grant = self._ledger.reserve(job(key))
        self.acknowledged[Kind.RESERVE, key] = grant.absorb_sats
        settlement = self._ledger.settle(key, cost_sats)
        self.acknowledged[Kind.SETTLE, key] = settlement.absorbed_sats
        gift = self._ledger.donate(key, 1)
        self.acknowledged[Kind.DONATION, key] = gift.balance_change

    def check(self) -> None:
        """What was answered is in the journal, once, and nothing else is."""
        entries = list(self._ledger.journal(after=1))
        written = {
            (entry.kind, entry.key): (
                entry.balance_change if entry.absorb_sats is None else entry.absorb_sats
            )
            for entry in entries
        }
        assert len(written) == len(entries)
        assert written == self.acknowledged
        assert self._ledger.verify().ok


def kill_one(connection: Connection, database: str, chance: random.Random) -> bool:
    """End a random back-end of the database; whether there was one."""
    others = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'",
        [database],
    ).fetchall()
    if not others:
        return False
    victim = chance.choice(others)
    return connection.execute("SELECT pg_terminate_backend(%s)", victim).fetchone() == (True,)


@every_driver
def test_back_ends_that_are_killed(
    postgres_dsn: str, other: Connection, driver: Driver, retried: list[str], count_of: Count
) -> None:
    """50 back-ends die under load: nothing acknowledged is lost, nothing is written twice."""
    chance = random.Random(1)
    other.autocommit = True
    with opened(driver, postgres_dsn, timeout_s=PATIENT_S) as ledger:
        load = Load(ledger)
        with load.running():
            killed = 0
            while killed < 50:
                killed += kill_one(other, database_name(postgres_dsn), chance)
                load.advance(5)
        load.check()
    assert retried
    count_of("Postgres back-ends killed", killed)


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    """A server that the tests may restart."""
    with server() as own:
        yield own


@every_driver
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart(
    own: OwnServer, driver: Driver, mode: Stop, retried: list[str], count_of: Count
) -> None:
    """Callers wait for a server that restarts under load: none fails, nothing is lost or doubled.

    After an immediate stop it recovers, as after a crash.
    """
    with opened(driver, own.create(), timeout_s=PATIENT_S) as ledger:
        load = Load(ledger)
        with load.running():
            for _ in range(2):
                own.restart(mode)
                load.advance(50)
        load.check()
    assert retried
    if mode == "immediate":
        count_of("Postgres restarts under load", 2)


@contextmanager
def no_room(own: OwnServer, dsn: str, table: str) -> Iterator[None]:
    """The kernel has no room for the table, which is empty: its file is `/dev/full`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute("SELECT pg_relation_filepath(%s)", [table]).fetchone()
    assert found is not None
    file = own.data / found[0]
    aside = file.rename(file.with_suffix(".aside"))
    file.symlink_to("/dev/full")
    yield
    aside.replace(file)


@every_driver
def test_a_full_disk(own: OwnServer, driver: Driver) -> None:
    """Where there is no room for it, a write is StoreFull, and nothing; with room it goes on."""
    dsn = own.create()
    with opened(driver, dsn) as ledger:
        before = list(ledger.journal())
    with no_room(own, dsn, "freetier_open"), opened(driver, dsn) as ledger:
        with pytest.raises(StoreFull, match="No space left on device"):
            ledger.reserve(job("job"))
        assert list(ledger.journal()) == before
        assert ledger.verify().ok
    with opened(driver, dsn) as ledger:
        assert ledger.reserve(job("job")).absorb_sats > 0
        assert ledger.verify().ok


@every_driver
def test_the_connection_limit(own: OwnServer, driver: Driver) -> None:
    """Where the server gives one connection, 8 callers share it, and all are served."""
    dsn = own.create()
    with opened(driver, dsn):
        pass
    role, name = f"freetier_{driver.__name__.lower()}", database_name(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1".encode())
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}".encode())
    limited = own.dsn(name, role)
    with opened(driver, limited, timeout_s=PATIENT_S) as ledger, ThreadPoolExecutor(8) as threads:
        grants = list(threads.map(lambda n: ledger.reserve(job(f"job-{n}")), range(100)))
        assert [grant.absorb_sats for grant in grants] == [5] * 100
        with pytest.raises(StoreUnavailable), opened(driver, limited):
            pass


@every_driver
def test_replies_that_are_lost(postgres_dsn: str, driver: Driver, count_of: Count) -> None:
    """The reply to every write is lost: each is asked for again, and written once."""
    with opened(driver, postgres_dsn):
        pass
    with (
        kept_folder("/tmp") as folder,
        blocking(cast("Opening", cutter(postgres_dsn, folder))) as relay,
        opened(driver, relay.target.dsn, timeout_s=PATIENT_S) as ledger,
    ):
        load = Load(ledger)
        with load.running():
            while relay.target.lost < 70:  # each of one entry, or of several together
                load.advance(1)
        load.check()
        count_of("COMMIT replies lost", relay.target.lost)


@every_driver
def test_an_outcome_that_stays_unknown(postgres_dsn: str, driver: Driver) -> None:
    """Nobody says that nothing was written, once a reply is lost; the same key tells the truth."""
    with opened(driver, postgres_dsn):
        pass
    with (
        kept_folder("/tmp") as folder,
        blocking(cast("Opening", cutter(postgres_dsn, folder))) as relay,
        opened(driver, relay.target.dsn, timeout_s=1, connections=1) as ledger,
    ):
        relay.target.goes_away = True
        with pytest.raises(OutcomeUnknown, match="ask again with the same key"):
            ledger.reserve(job("job"))
        with pytest.raises(StoreUnavailable):
            ledger.reserve(job("other"))
        relay.target.lets_in = True
        assert ledger.reserve(job("job")).absorb_sats == 5
        assert [entry.key for entry in ledger.journal(after=1)] == ["job"]


@pytest.mark.slow
@every_driver
def test_a_long_outage(own: OwnServer, driver: Driver) -> None:
    """A call that waits gets through soon after the server is back, however long it was away."""
    dsn = own.create()
    name = database_name(dsn)
    with (
        opened(driver, dsn, timeout_s=5.5) as ledger,
        psycopg.connect(own.dsn(), autocommit=True) as operator,
        ThreadPoolExecutor(1) as thread,
    ):
        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        while kill_one(operator, name, random.Random(1)):
            pass
        call = thread.submit(ledger.reserve, job("job"))
        sleep(3.5)
        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        assert call.result().absorb_sats == 5
