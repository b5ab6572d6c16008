"""Real processes that start at the same moment, for races that threads would not show."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def at_once(work: Callable[[int], T], processes: int) -> list[T]:
    """What `work(me)` gave in each process, `me` from 0; all of them start at the same moment.

    `work` must pickle. A process that fails, or says anything on stderr, fails the test.
    """
    # One interpreter imports what the work needs, and forks: to start 32 takes seconds.
    nursery = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.processes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        process_group=0,
    )
    try:
        output, errors = nursery.communicate(pickle.dumps((work, processes)), timeout=120)
    except BaseException:
        os.killpg(nursery.pid, signal.SIGKILL)
        nursery.communicate()
        raise
    assert nursery.returncode == 0, errors.decode()
    assert not errors, errors.decode()
    given: list[T] = pickle.loads(output)
    return given


def _nursery() -> None:
    work, processes = pickle.load(sys.stdin.buffer)
    fork = multiprocessing.get_context("fork")
    all_ready = fork.Barrier(processes)
    ends = []
    for me in range(processes):
        ours, theirs = fork.Pipe(duplex=False)
        fork.Process(target=_work, args=(work, me, all_ready, theirs)).start()
        theirs.close()
        ends.append(ours)
    sys.stdout.buffer.write(pickle.dumps([end.recv() for end in ends]))


def _work(work: Callable[[int], object], me: int, all_ready: Barrier, end: Connection) -> None:
    all_ready.wait(60)
    end.send(work(me))


if __name__ == "__main__":
    _nursery()
