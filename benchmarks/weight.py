"""What the model in memory weighs: bytes that stay, a pending grant and an identity's day."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

from benchmarks.ledgers import POLICY
from benchmarks.measure import Line, at_most
from benchmarks.run import Run
from freetier import FreeTier, Request
from freetier.memory import MemoryRepository

TITLE = "Memory"
GRANTS = 2_000


def lines(_: Run) -> Iterator[Line]:
    """Bytes do not vary from round to round, so there is one."""
    of_one, of_many = _held(1), _held(GRANTS)
    note = f"over {GRANTS:,} of them, with their ids and journal entries"
    yield Line("a pending grant", (of_one / GRANTS,), at_most(320), "bytes", note)
    note = f"{GRANTS:,} grants of as many identities, less those of one"
    yield Line("an identity and day", ((of_many - of_one) / GRANTS,), at_most(170), "bytes", note)


def _held(identities: int) -> int:
    """What so many pending grants keep, by as many identities."""
    ledger = FreeTier(POLICY, MemoryRepository())
    ledger.seed()
    ledger.reserve(Request("job-first", "id-first", "elite", 1))  # what is made once is there now
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(GRANTS):
            identity = f"id-{number % identities:05}"
            ledger.reserve(Request(f"job-{number:012}", identity, "elite", 1))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before
