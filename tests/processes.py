"""Real processes that start at the same moment, for races that threads would not show."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import IO, Any, TypeVar, cast

T = TypeVar("T")

# By its name: as `__main__` the module would be there twice.
_RUN = "from tests.processes import nursery; nursery()"
_SLOWEST_S = 60
"""How long one process waits for another before it says that something is wrong."""

_one_at_a_time = threading.Lock()
_nurseries: list[Nursery] = []
_barriers: list[Barrier] = []


def at_once(work: Callable[[int], T], processes: int) -> list[T]:
    """What `work(me)` gave in each process, `me` from 0; all of them start at the same moment.

    Inside, `together` has them start at the same moment again.
    `work` must pickle. A process that fails, or says anything on stderr, fails the test.
    """
    with _one_at_a_time:
        if not _nurseries:
            _nurseries.append(Nursery())
        try:
            return _nurseries[0].run(work, processes)
        except BaseException:
            _nurseries.pop().kill()
            raise


def together() -> None:
    """Wait until every process of the same `at_once` has come as far."""
    _barriers[0].wait(_SLOWEST_S)


@atexit.register
def _end() -> None:
    while _nurseries:
        _nurseries.pop().kill()


class Nursery:
    """An interpreter that imports what the works need, and forks: to start 32 takes seconds."""

    def __init__(self) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `kill` does
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _RUN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=Path(__file__).parent.parent,
            process_group=0,
        )

    def run(self, work: Callable[[int], T], processes: int) -> list[T]:
        """See `at_once`; what fails leaves nothing that could run another work."""
        orders, answers = cast("IO[bytes]", self._process.stdin), self._process.stdout
        try:
            pickle.dump((work, processes), orders)
            orders.flush()
            given: list[T] = pickle.load(cast("IO[bytes]", answers))
        except (EOFError, BrokenPipeError):
            given = []
        self._errors.seek(0)
        errors = self._errors.read().decode()
        assert not errors, errors
        assert len(given) == processes
        return given

    def kill(self) -> None:
        """End it, and every process of its own."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._errors.close()


def nursery() -> None:
    """What the interpreter of a `Nursery` runs."""
    for driver in ("sqlite", "postgres", "asyncpg"):
        import_module(f"freetier.{driver}")  # else each process would, when it opens a ledger
    while True:
        try:
            work, processes = pickle.load(sys.stdin.buffer)
        except EOFError:  # the tests are over
            return
        sys.stdout.buffer.write(pickle.dumps(_given(work, processes)))
        sys.stdout.buffer.flush()


def _given(work: Callable[[int], object], processes: int) -> list[Any]:
    """What each process gave; nothing of one that failed."""
    fork = multiprocessing.get_context("fork")
    all_ready = fork.Barrier(processes)
    started, ends = [], []
    for me in range(processes):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=_work, args=(work, me, all_ready, theirs))
        process.start()
        theirs.close()
        started.append(process)
        ends.append(ours)
    given = []
    for process, end in zip(started, ends, strict=True):
        with end, suppress(EOFError):
            given.append(end.recv())
        process.join()
    return given


def _work(work: Callable[[int], object], me: int, all_ready: Barrier, end: Connection) -> None:
    _barriers.append(all_ready)
    together()
    end.send(work(me))
