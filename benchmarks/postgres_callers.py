"""Many callers in one process on Postgres, durable: our own door, against each on its own.

The door is one ledger that 64 tasks share, with its one pool of connections. Against it stand as
many tasks as do best when each has a repository of its own with one connection, so that it never
does anything together with another: a connection of the library's own, where statements are
prepared, or a host's, where nothing can be gathered. The better of the two is the measure.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from benchmarks.bursts import CALLERS, ONE, AsyncCall, Tasks, everyone, names, opened, reserving
from benchmarks.ledgers import POLICY, flushing_slowly, postgres_ledger, random_keys
from benchmarks.measure import Bound, Line, Subjects, at_least, at_most
from benchmarks.run import Run
from freetier import AsyncFreeTier
from freetier.postgres import AsyncPostgresRepository

TITLE = "Postgres, durable, callers in one process"
DOOR = "64 tasks"
ALONE = (1, 2, 4, 8, 16, 32)
MOST_ALONE = max(ALONE)
CALLS_ALONE = 320
SLOWER_US = 1_000


def lines(run: Run) -> Iterator[Line]:
    """On this disk, and on one that is 1 ms slower; then from one caller on."""
    url = run.postgres()
    yield from _against_alone(run, url, "", at_least(8), at_most(0.2))
    slow = flushing_slowly(url, run.flush_us + SLOWER_US)
    yield from _against_alone(run, slow, "each flush 1 ms longer: ", at_least(20), None)
    with everyone(url, "callers") as subjects:
        rounds = subjects.measured(run.few)
    for name in names():
        yield rounds.compared(f"the rate of {name} / one caller's", ONE, name)


def _against_alone(
    run: Run, url: str, when: str, faster: Bound, sooner: Bound | None
) -> Iterator[Line]:
    """The door's rate and its slowest answers, against those of the tasks on their own."""
    with asyncio.Runner() as runner, ExitStack() as stack:
        schema = f"crowd_{'slow' if when else 'now'}"
        ledger = stack.enter_context(opened(runner, url, schema))
        door = Tasks(runner, [reserving(ledger, random_keys())] * max(CALLERS))
        with postgres_ledger(url, f"{schema}_alone"):
            pass  # made, with its seed
        alone = {
            kind: stack.enter_context(callers(runner, url, f"{schema}_alone"))
            for kind, callers in KINDS.items()
        }
        crowds = {
            (number, kind): Tasks(runner, callers[:number], CALLS_ALONE)
            for kind, callers in alone.items()
            for number in ALONE
        }
        subjects = Subjects({DOOR: door})
        subjects.samples |= {_name(*which): crowd for which, crowd in crowds.items()}
        rounds = subjects.measured(run.few)
    best = min((_name(*which) for which in crowds), key=rounds.us)
    name = f"{when}the rate of {DOOR} / the best on their own"
    yield rounds.compared(name, best, DOOR, faster, note=f"best with {best}")
    most = [crowds[MOST_ALONE, kind].waits_s[-run.few :] for kind in KINDS]
    waits = [door.waits_s[-run.few :], min(most, key=statistics.median)]
    ratios = [ours / theirs for ours, theirs in zip(*waits, strict=True)]
    name = f"{when}99th of 100 waits of {DOOR} / of {MOST_ALONE} on their own"
    took = " / ".join(f"{statistics.median(each) * 1e3:.3g}" for each in waits)
    yield Line(name, ratios, sooner, note=f"{took} ms")


def _name(number: int, kind: str) -> str:
    return f"{number} on {kind}"


@contextmanager
def _own(runner: asyncio.Runner, url: str, schema: str) -> Iterator[list[AsyncCall]]:
    """Callers with a repository each, on one connection of the library's own."""
    with ExitStack() as stack:
        repositories = []
        for _ in range(MOST_ALONE):
            repository = AsyncPostgresRepository(url, schema=schema, connections=1)
            stack.callback(_closed, runner, repository.close)
            repositories.append(runner.run(repository.open()))
        yield _callers(repositories)


@contextmanager
def _hosts(runner: asyncio.Runner, url: str, schema: str) -> Iterator[list[AsyncCall]]:
    """Callers with a repository each, on a host's connection in autocommit."""
    with ExitStack() as stack:
        repositories = []
        for _ in range(MOST_ALONE):
            connecting = psycopg.AsyncConnection.connect(url, autocommit=True)
            connection = runner.run(connecting)
            stack.callback(_closed, runner, connection.close)
            repositories.append(AsyncPostgresRepository(connection, schema=schema))
        yield _callers(repositories)


KINDS = {"own connections": _own, "hosts' connections": _hosts}


def _callers(repositories: list[AsyncPostgresRepository]) -> list[AsyncCall]:
    key = random_keys()
    return [reserving(AsyncFreeTier(POLICY, each), key) for each in repositories]


def _closed(runner: asyncio.Runner, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    runner.run(close())
