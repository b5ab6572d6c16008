"""A whole reserve in memory, from raw arguments, against the peers' one hit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

from benchmarks import peers
from benchmarks.ledgers import POLICY
from benchmarks.measure import Call, Line, Subjects, at_least, timed, timed_anew
from benchmarks.operations import NAMES, operations
from benchmarks.run import Run
from freetier import FreeTier, Request
from freetier.memory import MemoryRepository

TITLE = "In memory"
CALLS = 20
FEW = f"{CALLS // 2} grants open on average"
MANY_OPEN = 2_000


def lines(run: Run) -> Iterator[Line]:
    """Each round has a new ledger, with `CALLS` open grants at its end; one has many throughout."""
    subjects = Subjects()
    subjects.add("reserve", timed_anew(lambda: _reserve(_ledger()), CALLS))
    subjects.add("reserve, many open", timed_anew(_reserving_with_many_open(), CALLS))
    subjects.samples |= operations(_ledger, CALLS)
    with ExitStack() as stack:
        subjects.add_if_there("limits", lambda: timed(peers.limits_in_memory(), peers.HITS))
        subjects.add_if_there("throttled", lambda: timed(peers.throttled_in_memory(), peers.HITS))
        pyrate = peers.pyrate_in_memory()
        subjects.add_if_there("pyrate", peers.opened(stack, pyrate, peers.HITS))
        rounds = subjects.measured(run.many)
    for peer, hit, bound in (
        ("limits", "a hit of limits", at_least(1)),
        ("pyrate", "a try_acquire of pyrate-limiter", at_least(1)),
        ("throttled", "a limit of throttled-py", None),
    ):
        yield rounds.compared(f"{hit} / reserve", peer, "reserve", bound, note=FEW)
    for operation in NAMES:
        yield rounds.compared(f"a hit of limits / {operation}", "limits", operation)
    yield rounds.compared(
        f"reserve with {MANY_OPEN:,} grants open / with few", "reserve, many open", "reserve"
    )


def _ledger() -> FreeTier:
    ledger = FreeTier(POLICY, MemoryRepository())
    ledger.seed()
    return ledger


def _reserve(ledger: FreeTier) -> Call:
    """The values are made and checked within the time, as a service has to."""
    numbers = count()
    return lambda: ledger.reserve(Request(f"job-{next(numbers)}", "id-1", "elite", 1))


def _reserving_with_many_open() -> Callable[[], Call]:
    """Readies a reserve on one ledger: as many of its oldest grants end as a round then makes."""
    ledger, oldest = _ledger(), count()
    reserve = _reserve(ledger)
    for _ in range(MANY_OPEN):
        reserve()

    def prepare() -> Call:
        for _ in range(CALLS):
            ledger.release(f"job-{next(oldest)}")
        return reserve

    return prepare
