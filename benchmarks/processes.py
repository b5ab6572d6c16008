"""1 to 8 processes on one ledger, durable: what they do together, and whether each has its turn.

    python -m benchmarks.processes URL SECONDS      one of the processes

It opens the ledger, says `ready`, waits for a line, reserves for so long, and says what it did.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from attrs import frozen

import freetier
from benchmarks.bursts import patient_reserve
from benchmarks.ledgers import POLICY, requests
from benchmarks.measure import LeftOut, Line, at_least, at_most, left_out
from benchmarks.run import Run

TITLE = "Processes on one ledger, durable"
COUNTS = (1, 2, 4, 8)
SECONDS = 1.0
FAIR = at_least(0.6)
PATIENT_MS = at_most(200)


@frozen
class Turn:
    """What so many processes did in one go."""

    served: tuple[int, ...]
    longest_ms: float

    @property
    def fairness(self) -> float:
        """The least that a process was served, by the most."""
        return min(self.served) / max(self.served)


def lines(run: Run) -> Iterator[Line]:
    """On SQLite, where they wait for the file, and on Postgres, where they wait for the row."""
    yield from _on(run, "SQLite", str(run.folder / "processes.db"), judged=True)
    try:
        url = run.postgres()
    except LeftOut as why:
        yield left_out("Postgres: the rate of 8 processes / one's", str(why))
    else:
        yield from _on(run, "Postgres", url, judged=False)


def _on(run: Run, store: str, url: str, *, judged: bool) -> Iterator[Line]:
    freetier.open(url, POLICY).close()
    rounds = [{number: _turn(url, number) for number in COUNTS} for _ in range(run.few)]
    for number in COUNTS[1:]:
        ratios = [sum(each[number].served) / sum(each[1].served) for each in rounds]
        rate = statistics.median(sum(each[number].served) for each in rounds) / SECONDS
        note = f"{rate:,.0f} reserves a second"
        yield Line(f"{store}: the rate of {number} processes / one's", ratios, note=note)
    most = [each[max(COUNTS)] for each in rounds]
    yield Line(
        f"{store}, 8 processes: the least served / the most",
        [each.fairness for each in most],
        FAIR if judged else None,
    )
    yield Line(
        f"{store}, 8 processes: the longest wait of all",
        (max(each.longest_ms for each in most),),
        PATIENT_MS if judged else None,
        "ms",
        f"of {sum(sum(each.served) for each in most):,} reserves",
    )


def _turn(url: str, number: int) -> Turn:
    """So many new processes, which begin together."""
    command = [sys.executable, "-m", "benchmarks.processes", url, str(SECONDS)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(number)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            if worker.stdout.readline() != "ready\n":
                raise RuntimeError("a process did not open the ledger; it said why above")
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        told = [json.loads(worker.communicate()[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return Turn(tuple(each["served"] for each in told), max(each["longest_ms"] for each in told))


def work(url: str, duration_s: float) -> None:
    """One of the processes."""
    numbers = iter(range(10**9))
    request = requests(lambda: f"{time.time_ns()}-{os.getpid()}-{next(numbers)}")
    with freetier.open(url, POLICY) as ledger:
        print("ready", flush=True)
        sys.stdin.readline()
        served, longest = 0, 0.0
        now = time.perf_counter()
        end = now + duration_s
        while now < end:
            patient_reserve(ledger, request())
            before, now = now, time.perf_counter()
            served, longest = served + 1, max(longest, now - before)
    print(json.dumps({"served": served, "longest_ms": longest * 1e3}))


if __name__ == "__main__":
    work(sys.argv[1], float(sys.argv[2]))
