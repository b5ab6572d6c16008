"""A ledger under load for as long as one likes, whose processes are killed all the while.

    python -m benchmarks.soak --minutes 20                      on SQLite
    python -m benchmarks.soak --minutes 20 --postgres           on a throw-away Postgres

Eight processes share one ledger, 200 operations a second in all. Every 5 seconds one of them is
ended by SIGKILL and another takes its place; every 10 minutes (`--restart-every`) Postgres is
stopped as by a crash and started again; on SQLite the writers' clocks jump, ahead and back. Every
minute `verify` proves the ledger while it is written to. Whatever a process was told is kept by
the parent, and looked for at the end. A `Conflict` after an outcome that was unknown, with the same
key, is a problem. Each minute a line: operations, latency, memory, what `verify` said. An
operation takes until there is an answer: waiting for a store that is started again is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from attrs import define, field

import freetier
from freetier import FreeTier, FreeTierPolicy, Kind, Request
from freetier.errors import Conflict, OutcomeUnknown, StoreUnavailable
from tests.postgres_server import OwnServer, server

POLICY = FreeTierPolicy(seed_sats=10**9, budgets={"new": 0, "elite": 10**6})
PROCESSES = 8
A_SECOND = 200
KILL_EVERY_S = 5
Event = tuple[Kind, str, int, int, int, str | None]
"""Kind and key of an operation, the microseconds it took, the process's memory in kB, how often the
outcome was unknown, and the `Conflict` that it ended in, if one of its key was unknown before.
"""
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A ledger under load, its processes killed.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--restart-every", type=float, default=10, help="minutes; of Postgres")
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)  # one of the processes
    args = parser.parse_args(argv)
    if args.work:
        work(args.work)
    with _database(args.postgres) as (url, own), tempfile.TemporaryFile("w+") as complaints:
        freetier.open(url, POLICY).close()
        soak = Soak(url, own, complaints, args.restart_every * 60)
        soak.run(args.minutes * 60)
        return soak.report()


@contextmanager
def _database(postgres: bool) -> Iterator[tuple[str, OwnServer | None]]:
    if postgres:
        with server(**DURABLE) as own:
            yield own.dsn(), own
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "soak.db"), None


def work(url: str) -> None:
    """One process: an operation, then what it was and took on standard output, for ever."""
    chance = random.Random()
    jumps = not url.startswith("postgresql:")
    offset = timedelta()

    def clock() -> datetime:
        return datetime.now(UTC) + offset

    while True:
        with suppress(StoreUnavailable):  # Postgres is just being started again
            ledger = freetier.open(url, POLICY, clock=clock if jumps else None)
            break
        time.sleep(0.1)
    number = 0
    while True:
        if jumps and chance.random() < 0.001:
            offset = timedelta(minutes=chance.choice([-90, -1, 0, 1, 30]))
        key = f"{os.getpid()}-{time.time_ns()}-{number}"
        number += 1
        for event in events(key, _operations(ledger, key, chance)):
            print(json.dumps(event), flush=True)
            time.sleep(chance.expovariate(A_SECOND / PROCESSES))


def events(key: str, operations: Iterable[tuple[Kind, Callable[[], object]]]) -> Iterator[Event]:
    """What the parent is told of the operations of one key."""
    doubts = 0
    for kind, call in operations:
        started = time.perf_counter()
        unknown, conflict = _answered(call)
        took_us = round((time.perf_counter() - started) * 1e6)
        doubts += unknown
        if conflict is None or doubts:  # else another process's clock let the grant expire
            yield kind, key, took_us, _memory_kb(), unknown, conflict


def _answered(call: Callable[[], object]) -> tuple[int, str | None]:
    """Ask until there is an answer, with the same key.

    How often the outcome was unknown; and the `Conflict`, if that is the answer.
    """
    unknown = 0
    while True:
        try:
            call()
        except OutcomeUnknown:
            unknown += 1
        except StoreUnavailable:
            time.sleep(0.1)
        except Conflict as conflict:
            return unknown, str(conflict)
        else:
            return unknown, None


def _memory_kb() -> int:
    """What this process has in memory now. Its highest so far would begin with its parent's."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def _operations(
    ledger: FreeTier, key: str, chance: random.Random
) -> Iterator[tuple[Kind, Callable[[], object]]]:
    """A job, a chat, a payment or a gift: what comes of it is in the journal, under its key."""
    request = Request(key, f"id-{chance.randrange(1000)}", "elite", chance.randrange(1, 50))
    match chance.randrange(6):
        case 0 | 1 | 2:
            yield Kind.RESERVE, lambda: ledger.reserve(request)
            if chance.random() < 0.7:
                yield Kind.SETTLE, lambda: ledger.settle(key, 7)
            elif chance.random() < 0.5:
                yield Kind.RELEASE, lambda: ledger.release(key)
        case 3:
            yield Kind.GRANT, lambda: ledger.record_grant(request)
        case 4:
            yield Kind.CREDIT, lambda: ledger.credit(key, 77)
        case 5:
            yield Kind.DONATION, lambda: ledger.donate(key, 3)


@define
class Soak:
    """The processes, what they were told, and what became of it."""

    url: str
    server: OwnServer | None
    complaints: IO[str]
    restart_every_s: float
    acknowledged: set[tuple[str, str]] = field(factory=set)
    took_us: list[int] = field(factory=list)
    memory_kb: int = 0
    kills: int = 0
    restarts: int = 0
    unknown: int = 0
    verified: int = 0
    problems: list[str] = field(factory=list)
    _workers: list[subprocess.Popen[str]] = field(factory=list)

    def run(self, seconds: float) -> None:
        """Let it run for so long."""
        chance = random.Random(1)
        for _ in range(PROCESSES):
            self._start()
        started = time.monotonic()
        end, minute, restart = started + seconds, started + 60, started + self.restart_every_s
        while time.monotonic() < end:
            time.sleep(KILL_EVERY_S)
            if any(worker.poll() is not None for worker in self._workers):
                self.complaints.seek(0)
                raise RuntimeError(f"a process ended by itself: {self.complaints.read()}")
            self._end(self._workers.pop(chance.randrange(PROCESSES)))
            self.kills += 1
            self._start()
            if self.server is not None and time.monotonic() > restart:
                self.server.restart("immediate")
                self.restarts += 1
                restart += self.restart_every_s
            if time.monotonic() > minute:
                self._look(round((minute - started) / 60))
                minute += 60
        for worker in self._workers:
            self._end(worker)

    def report(self) -> int:
        """Whether all that was acknowledged is there, and proved; 1 if not."""
        with freetier.open(self.url, POLICY) as ledger:
            report = ledger.verify()
            written = {(str(entry.kind), entry.key) for entry in ledger.journal()}
        # An expired grant that was settled is a late entry.
        late = {("settle", key) for kind, key in written if kind == "late"}
        lost = self.acknowledged - written - late
        self.problems += [str(problem) for problem in report.problems]
        print(
            f"{len(self.acknowledged):,} acknowledged, {len(lost)} lost;"
            f" {self.unknown} outcomes unknown until asked again;"
            f" {report.entries:,} entries; {self.kills} processes killed, {self.restarts} restarts;"
            f" verified {self.verified + 1} times, {len(self.problems)} problems"
        )
        for problem in (*self.problems, *(f"lost: {each}" for each in sorted(lost)[:10])):
            print(problem)
        return 1 if lost or self.problems else 0

    def _look(self, minute: int) -> None:
        with freetier.open(self.url, POLICY) as ledger:
            report = ledger.verify()
        self.verified += 1
        self.problems += [str(problem) for problem in report.problems]
        took, self.took_us = sorted(self.took_us), []
        print(
            f"minute {minute}: {len(took):,} operations, median {statistics.median(took):,.0f} µs,"
            f" 99th of 100 {took[len(took) * 99 // 100]:,} µs, longest {took[-1]:,} µs,"
            f" {self.memory_kb / 1024:.0f} MB at most; {report.entries:,} entries,"
            f" {'proved' if report.ok else 'BROKEN'}",
            flush=True,
        )

    def _start(self) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--work", self.url],
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
        )
        self._workers.append(worker)
        threading.Thread(target=self.listen, args=(worker.stdout,), daemon=True).start()

    def listen(self, lines: Iterable[str]) -> None:
        """Take down what a process says, an event a line."""
        for line in lines:
            if line.endswith("\n"):  # else it was killed in the middle of it
                kind, key, took_us, memory_kb, unknown, conflict = json.loads(line)
                self.unknown += unknown
                self.memory_kb = max(self.memory_kb, memory_kb)
                if conflict is None:
                    self.acknowledged.add((kind, key))
                    self.took_us.append(took_us)
                else:
                    self.problems.append(f"{kind} {key!r} after an unknown outcome: {conflict}")

    def _end(self, worker: subprocess.Popen[str]) -> None:
        worker.send_signal(signal.SIGKILL)
        worker.wait()


if __name__ == "__main__":
    raise SystemExit(main())
