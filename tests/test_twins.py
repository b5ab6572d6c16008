"""Blocking and async are twins: the same names, the same signatures, the same answers."""

from __future__ import annotations

import asyncio
import inspect
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import freetier
from freetier import (
    AsyncFreeTier,
    FreeTier,
    FreeTierPolicy,
    Grant,
    Kind,
    Limit,
    Request,
    migrations,
    postgres,
    repository,
    sqlalchemy,
    sqlite,
)
from freetier._async_memory import AsyncMemoryRepository
from freetier.errors import (
    Conflict,
    FreeTierError,
    InvalidInput,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.memory import MemoryRepository
from freetier.operations import OnUnavailable
from freetier.testing import Clock

TWINS: list[tuple[type, type]] = [
    (FreeTier, AsyncFreeTier),
    (repository.Repository, repository.AsyncRepository),
    (MemoryRepository, AsyncMemoryRepository),
    (sqlite.SQLiteRepository, sqlite.AsyncSQLiteRepository),
    (postgres.PostgresRepository, postgres.AsyncPostgresRepository),
    (sqlalchemy.SQLAlchemyRepository, sqlalchemy.AsyncSQLAlchemyRepository),
]
FUNCTIONS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (freetier.open, freetier.open_async),
    (migrations.migrate, migrations.migrate_async),
    (sqlite.migrate, sqlite.migrate_async),
    (postgres.migrate, postgres.migrate_async),
    (sqlalchemy.migrate, sqlalchemy.migrate_async),
]

ONLY_ASYNC = {
    "open": "a constructor cannot await",
}
"""What only async repositories have, and why."""

PLAIN = {
    "OpeningAsync": "FreeTier",  # is entered, or awaited, and then gives one
    "aiosqlite.Connection": "sqlite3.Connection",
}
"""What an async twin's types are called in the blocking one, where it is not `Async` alone."""

POLICY = FreeTierPolicy(budgets={"new": 0, "trusted": 60, "elite": 500}, seed_sats=500)

JOB = Request("job", "ada", "trusted", 40)
SESSION = Request("session", "bob", "elite", 12)
LATE = Request("late", "bob", "elite", 30)
ELSE = Request("else", "bob", "elite", 20)
GATED = Request("gated", "eve", "new", 30)

Call = tuple[str, tuple[object, ...], dict[str, object]]


def call(name: str, *arguments: object, **options: object) -> Call:
    return name, arguments, options


# Every operation: done, done again, and refused.
SCRIPT = [
    call("seed"),
    call("seed"),
    call("decide", JOB),
    call("reserve", JOB),
    call("reserve", JOB),
    call("reserve", Request("job", "ada", "trusted", 41)),
    call("reserve", Request("job-2", "ada", "trusted", 40)),
    call("reserve", Request("anonymous", None, "trusted", 40)),
    call("reserve", Request("free", "ada", "trusted", 0)),
    call("reserve", GATED),
    call("reserve", LATE, ttl=timedelta(minutes=1)),
    call("reserve", ELSE),
    call("reserve", Request("whose", "ada", "nobody's", 40)),
    call("record_grant", SESSION),
    call("record_grant", SESSION),
    call("open_grants"),
    call("settle", "job", 30),
    call("settle", "job", 30),
    call("settle", "job", 31),
    call("settle", "no such job"),
    call("settle", "gated"),
    call("settle", "else", -1),
    call("release", "job-2"),
    call("release", "job-2"),
    call("release", "job"),
    call("credit", "invoice", 95),
    call("credit", "invoice", 95),
    call("credit", "invoice", 96),
    call("donate", "gift", 7, sponsor="Ada", note="thanks"),
    call("donate", "gift", 8),
    call("adjust", "count", -3, note="counted again"),
    call("adjust", "count", 0, note="counted again"),
    call("advance", minutes=5),
    call("settle", "late", 9),
    call("advance", minutes=15),
    call("sweep"),
    call("sweep"),
    call("grant", "else"),
    call("grant", "no such job"),
    call("pool_status"),
    call("open_grants"),
    call("journal"),
    call("journal", 3),
    call("journal", after=-1),
    call("verify"),
    call("seal"),
    call("reconcile", [("payment", 70), ("another", 5)]),
    call("close"),
    call("close"),
]


twins = pytest.mark.parametrize(("blocking", "awaited"), TWINS, ids=lambda twin: twin.__name__)


@twins
def test_the_same_names(blocking: type, awaited: type) -> None:
    """An async class has the blocking one's public names, and the few that only async needs."""
    extra = set() if awaited is AsyncFreeTier else set(ONLY_ASYNC)
    assert names(awaited) == names(blocking) | extra
    assert hasattr(awaited, "__aenter__") == hasattr(blocking, "__enter__")


@twins
def test_the_same_signatures(blocking: type, awaited: type) -> None:
    """Constructors and methods take the same, and give the same, awaited."""
    assert signature(awaited) == signature(blocking)
    for name in names(blocking):
        ours, theirs = getattr(blocking, name), getattr(awaited, name)
        assert signature(theirs) == signature(ours)
        assert is_async(theirs) != isinstance(theirs, property)
        assert not is_async(ours)


def test_nothing_is_left_out_in_silence() -> None:
    """A store that lacks a method cannot be made; only what has an answer of its own is given."""
    for port in (repository.Repository, repository.AsyncRepository):
        assert port.__abstractmethods__ == names(port) - {"open", "perform"}


@pytest.mark.parametrize(("blocking", "awaited"), FUNCTIONS, ids=lambda twin: twin.__module__)
def test_the_same_functions(blocking: Callable[..., Any], awaited: Callable[..., Any]) -> None:
    """An async function takes the same as the blocking one, and gives the same, awaited."""
    assert signature(awaited) == signature(blocking)
    assert is_async(awaited)
    assert not is_async(blocking)


def test_the_same_answers() -> None:
    """Every operation gives the same, or raises the same, awaited or not."""
    clock, later = Clock(), Clock()
    blocking = FreeTier(POLICY, MemoryRepository(), clock=clock)
    given = answers(blocking, clock)
    awaited = AsyncFreeTier(POLICY, AsyncMemoryRepository(), clock=later)
    assert asyncio.run(answers_async(awaited, later)) == given
    assert {name for name, _, _ in SCRIPT} - {"advance"} == names(FreeTier) - {"policy"}
    assert raised(given) == {InvalidInput, Conflict, UnknownRequest}
    assert {entry.kind for entry in blocking.journal()} == set(Kind)


@pytest.mark.parametrize("on_unavailable", ["raise", "gate"])
def test_the_same_without_an_answer(tmp_path: Path, on_unavailable: OnUnavailable) -> None:
    """Where the store does not answer, both raise, or both gate."""
    path = tmp_path / "ledger.db"
    freetier.open(path, POLICY, clock=Clock()).close()
    clock, later = Clock(), Clock()

    async def awaited() -> list[object]:
        store = await sqlite.AsyncSQLiteRepository(path, timeout_s=0).open()
        ledger = AsyncFreeTier(POLICY, store, clock=later, on_unavailable=on_unavailable)
        return await answers_async(ledger, later)

    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can write
        store = sqlite.SQLiteRepository(path, timeout_s=0)
        ledger = FreeTier(POLICY, store, clock=clock, on_unavailable=on_unavailable)
        given = answers(ledger, clock)
        assert asyncio.run(awaited()) == given
    assert StoreUnavailable in raised(given)
    limits = {answer.decision.bound_by for answer in given if isinstance(answer, Grant)}
    assert (Limit.UNAVAILABLE in limits) == (on_unavailable == "gate")


def names(twin: type) -> set[str]:
    """The public names of a class."""
    return {name for name in dir(twin) if not name.startswith("_")}


def signature(member: Any) -> inspect.Signature:
    """What it takes and gives, in the words of the blocking twin."""
    found = inspect.signature(getattr(member, "fget", member))
    return found.replace(
        parameters=[p.replace(annotation=plain(p.annotation)) for p in found.parameters.values()],
        return_annotation=plain(found.return_annotation),
    )


def plain(annotation: object) -> str:
    text = str(annotation)
    for name, ours in PLAIN.items():
        text = text.replace(name, ours)
    return re.sub(r"\bAsync", "", text)


def is_async(member: Any) -> bool:
    """Whether what it gives is to be awaited, entered or read with async code."""
    function = getattr(member, "fget", member)
    gives = str(inspect.signature(function).return_annotation)
    return inspect.iscoroutinefunction(function) or "Async" in gives


def answers(ledger: FreeTier, clock: Clock) -> list[object]:
    """What each call of the script gives or raises."""
    given: list[object] = []
    for name, arguments, options in SCRIPT:
        try:
            answer = getattr(clock if name == "advance" else ledger, name)(*arguments, **options)
            given.append(list(answer) if isinstance(answer, Iterator) else answer)
        except FreeTierError as error:
            given.append((type(error), str(error)))
    return given


async def answers_async(ledger: AsyncFreeTier, clock: Clock) -> list[object]:
    """The same, awaited."""
    given: list[object] = []
    for name, arguments, options in SCRIPT:
        try:
            answer = getattr(clock if name == "advance" else ledger, name)(*arguments, **options)
            if isinstance(answer, AsyncIterator):
                answer = [row async for row in answer]
            given.append(await answer if inspect.isawaitable(answer) else answer)
        except FreeTierError as error:
            given.append((type(error), str(error)))
    return given


def raised(given: list[object]) -> set[object]:
    """The errors among the answers of a script."""
    return {answer[0] for answer in given if isinstance(answer, tuple)}
