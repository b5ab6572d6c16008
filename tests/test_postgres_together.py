"""Callers that come while another's call is under way are one statement, as if each were alone."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from freetier import (
    Conflict,
    IntegrityError,
    InvalidInput,
    OutcomeUnknown,
    StoreUnavailable,
    UnknownRequest,
)
from freetier._gathering_async import Answers, Tasks
from freetier._postgres_together import Rows, TasksTogether, ThreadsTogether
from freetier._sql import DRAW, Query
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository

from .crowd import Call, Crowd, crowd, ended, reserve
from .drivers import Driver, every_driver, job, opened
from .postgres_by_hand import granted_role
from .postgres_server import Server, database_name

AT_ONCE = 24
REQUEST_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('public main {}', 0))"


@pytest.fixture(
    params=[PostgresRepository, AsyncPostgresRepository, AsyncpgRepository],
    ids=["psycopg", "psycopg-async", "asyncpg"],
)
def callers(request: pytest.FixtureRequest, postgres_dsn: str) -> Iterator[Crowd]:
    """Of a new ledger, through each driver."""
    with crowd(request.param, postgres_dsn) as callers:
        yield callers
        assert callers.ledger.verify().ok


def settle(name: str, sats: int | None = None) -> Call:
    return lambda ledger: ledger.settle(name, sats)


def release(name: str) -> Call:
    return lambda ledger: ledger.release(name)


def look(name: str) -> Call:
    return lambda ledger: ledger.repository.look(name, None, identity="ada", tier="elite")


def test_draws_are_one_statement(callers: Crowd) -> None:
    """What callers draw while one is under way is drawn by one statement, in order of arrival."""
    answers = callers.together(*(reserve(f"job-{number}") for number in range(AT_ONCE)))
    assert [grant.absorb_sats for grant in answers] == [5] * AT_ONCE
    assert [grant.request_id for grant in answers] == callers.keys()
    assert callers.keys() == [f"job-{number}" for number in range(AT_ONCE)]
    assert callers.commits("draw") == 2


def test_endings_are_one_statement(callers: Crowd) -> None:
    """What callers settle and release while one is under way is ended by one statement."""
    names = [f"job-{number}" for number in range(AT_ONCE)]
    for name in names:
        callers.ledger.reserve(job(name))
    ways: list[Callable[[str], Call]] = [partial(settle, sats=3), release]
    answers = callers.together(*(ways[n % 2](name) for n, name in enumerate(names)))
    assert [settlement.absorbed_sats for settlement in answers[::2]] == [3] * (AT_ONCE // 2)
    assert [str(grant.state) for grant in answers[1::2]] == ["released"] * (AT_ONCE // 2)
    assert callers.keys("ending") == names
    assert callers.commits("ending") == 2


def test_looks_are_one_statement(callers: Crowd) -> None:
    """What callers look at while one looks is one statement, which has one time."""
    for number in range(4):
        callers.ledger.reserve(job(f"job-{number}"))
    with callers.held("LOCK TABLE freetier_gate IN ACCESS EXCLUSIVE MODE"):
        first = callers.under_way(look("job-0"))
        begun = callers.in_order([look(f"job-{number}") for number in range(1, 6)])
    views = [ended(future) for future in (first, *begun)]
    assert [view.grant and view.grant.request_id for view in views] == [
        *(f"job-{number}" for number in range(4)),
        None,
        None,
    ]
    assert len({view.snapshot.at for view in views[1:]}) == 1
    assert {view.snapshot.identity_used_sats for view in views} == {20}


def test_each_has_its_own_answer(callers: Crowd) -> None:
    """Whatever others ask for at the same time, each is answered, or told no, as if alone."""
    ledger = callers.ledger
    for name in ("settled", "released", "open", "other"):
        ledger.reserve(job(name))
    for name in ("late", "gone"):
        ledger.reserve(job(name), ttl=timedelta.resolution)
    ledger.settle("settled", 4)
    ledger.release("released")
    ledger.sweep()
    calls: dict[str, Call] = {
        "first": reserve("first"),
        "new": reserve("new"),
        "the same": reserve("new"),
        "before": reserve("settled"),
        "another's": reserve("open", "bob"),
        "another's of now": reserve("new", "bob"),
        "no tier": reserve("no tier", tier="unheard of"),
        "a gate": reserve("a gate", tier="new"),
        "granted": lambda own: own.record_grant(job("granted")),
        "settle": settle("open", 2),
        "settle the same": settle("open", 2),
        "settle otherwise": settle("settled", 5),
        "settle again": settle("settled", 4),
        "settle late": settle("late", 1),
        "settle too much": settle("other", -1),
        "settle nobody's": settle("nobody's"),
        "release": release("other"),
        "release again": release("released"),
        "release late": release("gone"),
        "decide": lambda own: own.decide(job("undecided")),
        "grant": lambda own: own.grant("settled"),
    }
    found = dict(zip(calls, callers.together(*calls.values()), strict=True))
    raised = {name: type(each) for name, each in found.items() if isinstance(each, Exception)}
    assert raised == {
        "another's": Conflict,
        "another's of now": Conflict,
        "no tier": InvalidInput,
        "settle otherwise": Conflict,
        "settle too much": InvalidInput,
        "settle nobody's": UnknownRequest,
        "release late": Conflict,
    }
    draws = ("first", "new", "the same", "before", "a gate", "granted")
    assert [found[name].absorb_sats for name in draws] == [5, 5, 5, 5, 0, 5]
    assert found["the same"] == found["new"]
    settlements = ("settle", "settle the same", "settle again", "settle late")
    assert [found[name].absorbed_sats for name in settlements] == [2, 2, 4, 1]
    assert found["settle late"].late
    assert [str(found[name].state) for name in ("release", "release again")] == ["released"] * 2
    assert found["decide"].absorb_sats == 5
    assert found["grant"].settlement.absorbed_sats == 4
    assert ledger.pool_status().reserved_sats == 5 + 5


def test_the_last_sats_of_an_allowance(callers: Crowd) -> None:
    """Callers that are drawn for together never get more than one after the other would."""
    asked = [reserve(f"last-{number}", sats=90_000) for number in range(AT_ONCE)]
    drawn = [grant.absorb_sats for grant in callers.together(*asked)]
    assert drawn[:11] == [90_000] * 11
    assert Counter(drawn[11:]) == {10_000: 1, 0: 12}


@pytest.mark.parametrize("drawn", [True, False], ids=["draws", "endings"])
def test_one_that_fails(callers: Crowd, drawn: bool) -> None:
    """An entry that a host's own trigger refuses with an error is its caller's affair alone."""
    names = [f"job-{number}" for number in range(9)]
    for name in names:
        if not drawn:
            callers.ledger.reserve(job(name))
    callers.other.execute(
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.key IN ('job-4', 'job-6') THEN RAISE 'not % ', NEW.key; END IF; RETURN NEW; END $$"
    )
    callers.other.execute(
        "CREATE TRIGGER mine BEFORE INSERT ON freetier_journal FOR EACH ROW EXECUTE FUNCTION mine()"
    )
    answers = callers.together(*((reserve if drawn else settle)(name) for name in names))
    failed = {n: answer for n, answer in enumerate(answers) if isinstance(answer, Exception)}
    assert {n: type(error) for n, error in failed.items()} == dict.fromkeys((4, 6), IntegrityError)
    assert all(f"not job-{n}" in str(error) for n, error in failed.items())
    written = [name for name in names if name not in ("job-4", "job-6")]
    assert callers.keys("draw" if drawn else "ending") == written


def test_two_that_end_one_grant(callers: Crowd) -> None:
    """In the same figures both are told so; in different ones the first wins, as one by one."""
    for name in ("held", "same", "other"):
        callers.ledger.reserve(job(name))
    _, one, two, first, second, gone = callers.together(
        settle("held"),
        settle("same", 3),
        settle("same", 3),
        settle("other", 1),
        settle("other", 2),
        release("other"),
    )
    assert one == two
    assert one.absorbed_sats == 3
    assert first.absorbed_sats == 1
    assert [type(second), type(gone)] == [Conflict, Conflict]
    assert callers.keys("ending") == ["held", "same", "other"]


@pytest.mark.parametrize("driver", [AsyncPostgresRepository, AsyncpgRepository])
def test_a_task_that_is_cancelled(postgres_dsn: str, driver: Driver) -> None:
    """To cancel a task, under way, waiting or in the middle of a batch, cancels nobody else."""
    with crowd(driver, postgres_dsn) as callers:
        with callers.held():
            begun = [callers.under_way(reserve("job-0"))]
            begun += callers.in_order([reserve(f"job-{number}") for number in range(1, 9)])
            for number in (0, 3):
                begun[number].cancel()
            while callers.waiting():
                pass
            callers.wait_for(1)  # the batch
            begun[5].cancel()
        others = (1, 2, 4, 6, 7, 8)
        assert [ended(begun[number]).absorb_sats for number in others] == [5] * 6
        assert callers.keys() == [f"job-{number}" for number in (1, 2, 4, 5, 6, 7, 8)]
        assert callers.commits("draw") == 1
        again = [callers.ledger.reserve(job(f"job-{number}")) for number in range(9)]
        assert [grant.absorb_sats for grant in again] == [5] * 9


@every_driver
def test_a_role_without_the_right_to_batches(
    postgres_dsn: str, postgres_server: Server, driver: Driver
) -> None:
    """A role that may not insert into `freetier_draws` is answered, one by one."""
    with crowd(driver, postgres_dsn) as callers, granted_role(callers.other) as role:
        callers.other.execute(f"REVOKE INSERT ON freetier_draws FROM {role}".encode())
        dsn = postgres_server.dsn(database_name(postgres_dsn), role)
        with opened(driver, dsn, timeout_s=60) as ledger:
            theirs = Crowd(ledger, callers.other, callers.threads)
            answers = theirs.together(*(reserve(f"job-{number}") for number in range(6)))
        assert [grant.absorb_sats for grant in answers] == [5] * 6
        assert callers.commits("draw") == 6


def test_an_error_of_nobodys() -> None:
    """Tasks that wait for what fails beyond all errors of the library's raise that error."""
    others_are_there = asyncio.Event()

    async def alone(_: str) -> None:
        await others_are_there.wait()

    async def together(wanted: Sequence[str]) -> Answers:
        raise ZeroDivisionError

    async def main() -> list[Any]:
        tasks = Tasks(alone, together)
        calls = [asyncio.ensure_future(tasks.do("first"))]
        await asyncio.sleep(0.01)  # it is under way
        calls += [asyncio.ensure_future(tasks.do(f"{number}")) for number in range(2)]
        await asyncio.sleep(0)
        others_are_there.set()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert await tasks.do("another") is None
        return ends

    none, *raised = asyncio.run(main())
    assert none is None
    assert [type(error) for error in raised] == [ZeroDivisionError] * 2


def test_those_of_one_turn_are_one_batch() -> None:
    """Tasks that come in one turn of the loop are done together, the first of them as well."""
    batches: list[Sequence[int]] = []

    async def alone(wanted: int) -> int:
        batches.append([wanted])
        return wanted

    async def together(wanted: Sequence[int]) -> Answers:
        batches.append(wanted)
        return wanted

    async def main() -> list[int]:
        tasks = Tasks(alone, together)
        assert await tasks.do(0) == 0
        leaver = asyncio.ensure_future(tasks.do(9))
        others = [asyncio.ensure_future(tasks.do(number)) for number in range(1, 4)]
        await asyncio.sleep(0)
        leaver.cancel()
        return [await other for other in others]

    assert asyncio.run(main()) == [1, 2, 3]
    assert batches == [[0], [1, 2, 3]]


def test_nobody_waits_one_by_one_for_a_database_that_is_away() -> None:
    """Where a batch fails, and then the database for the first by itself, it is asked no more."""
    asked: list[str] = []

    def fetch(text: str, arguments: Sequence[Any], *, writes: bool) -> Rows:
        """Fails as a batch with one bad row does, and then as a server that has gone."""
        asked.append(text)
        raise IntegrityError("bad") if "freetier_draws" in text else OutcomeUnknown("gone")

    async def fetch_async(text: str, arguments: Sequence[Any], *, writes: bool) -> Rows:
        return fetch(text, arguments, writes=writes)

    queries = [Query(DRAW, defaultdict(int), len, writes=True) for _ in range(3)]
    blocking = ThreadsTogether(fetch, '"public"')._answers(queries)
    awaited = asyncio.run(TasksTogether(fetch_async, '"public"')._answers(queries))
    assert len(asked) == 4
    for answers in (blocking, awaited):
        assert [type(error) for error in answers] == [OutcomeUnknown, *[StoreUnavailable] * 2]
