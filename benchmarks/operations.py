"""What is measured besides `reserve`: each with its keys ready before the time begins."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from benchmarks.ledgers import requests
from benchmarks.measure import Call, Sample, timed_anew
from freetier import FreeTier, Request

NAMES = ("settle", "credit", "reserve again")


def operations(make: Callable[[], FreeTier], calls: int) -> dict[str, Sample]:
    """A sample of each, of so many calls, on the ledger that `make` gives."""
    keys = count()

    def sample(operation: Callable[[FreeTier, Request], object], *, reserved: bool) -> Sample:
        def prepare() -> Call:
            ledger, request = make(), requests(lambda: f"job-{next(keys):012}")
            ready = [request() for _ in range(calls)]
            for each in ready if reserved else ():
                ledger.reserve(each)
            left = iter(ready)
            return lambda: operation(ledger, next(left))

        return timed_anew(prepare, calls)

    return {
        "settle": sample(lambda ledger, job: ledger.settle(job.request_id, 1), reserved=True),
        "credit": sample(lambda ledger, job: ledger.credit(job.request_id, 77), reserved=False),
        "reserve again": sample(lambda ledger, job: ledger.reserve(job), reserved=True),
    }
