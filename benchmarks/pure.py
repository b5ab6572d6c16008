"""What a decision costs by itself: no store, no clock, values that are ready."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from attrs import frozen

from benchmarks import peers
from benchmarks.measure import Line, Subjects, at_least, at_most, timed
from benchmarks.run import Run
from freetier import FreeTierPolicy, Request, Snapshot

TITLE = "A decision, against ints and one object"
CALLS = 500
AT = datetime(2026, 1, 5, 12, tzinfo=UTC)


@frozen
class Answer:
    """What the bare function gives: as many fields as a decision, none of them checked."""

    serve: str
    price: int
    absorb: int
    charge: int
    bound_by: str | None
    rooms: None
    resets_at: None


def bare(price: int, budget: int, used: int, available: int) -> Answer:
    """The floor: the arithmetic of two limits, and the object that has to be made."""
    room, bound_by = budget - used, "budget"
    if available < room:
        room, bound_by = available, "pool"
    if room >= price:
        return Answer("free", price, price, 0, None, None, None)
    return Answer("partial", price, room, price - room, bound_by, None, None)


def lines(run: Run) -> Iterator[Line]:
    """One free and one bound by its budget, under the default limits."""
    policy = FreeTierPolicy()
    request = Request("job-1", "ada", "trusted", 100)
    free, bound = Snapshot(AT, 10_000), Snapshot(AT, 10_000, 0, 150)
    subjects = Subjects()
    subjects.add("bare, free", timed(lambda: bare(100, 200, 0, 10_000), CALLS))
    subjects.add("bare, bound", timed(lambda: bare(100, 200, 150, 10_000), CALLS))
    subjects.add("free", timed(lambda: policy.decide(request, free), CALLS))
    subjects.add("bound", timed(lambda: policy.decide(request, bound), CALLS))
    subjects.add_if_there("limits", lambda: timed(peers.limits_in_memory(), peers.HITS))
    subjects.add_if_there("throttled", lambda: timed(peers.throttled_in_memory(), peers.HITS))
    rounds = subjects.measured(run.many)
    yield rounds.compared("decide, free / bare function", "free", "bare, free", at_most(2.5))
    yield rounds.compared(
        "decide, bound by budget / bare function", "bound", "bare, bound", at_most(2.5)
    )
    yield rounds.compared("a hit of limits in memory / decide", "limits", "bound", at_least(1))
    yield rounds.compared(
        "a limit of throttled-py in memory / decide", "throttled", "bound", at_least(1)
    )
