"""The queue of SQLite's writers: who waits, who goes without, and what ends a turn."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import freetier
from freetier import ConfigError, FreeTier, FreeTierPolicy, Request, _sqlite_queue
from freetier._sqlite_queue import Queue
from freetier.sqlite import SQLiteRepository

POLICY = FreeTierPolicy(budgets={"elite": 10**6}, seed_sats=10**6)
JOB = Request("job", "ada", "elite", 1)
LOOKS = 3
FOREVER = 10**5
"""So many looks take a minute: nobody has given the turn up."""

HOLD = """
import os, sys
from freetier._sqlite_queue import Queue

with Queue(sys.argv[1]).turn(lambda: True):
    if sys.argv[2] == "fork" and os.fork() == 0:
        print("held", flush=True)
        sys.stdin.read()
        os._exit(0)
    if sys.argv[2] != "fork":
        print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger's file, migrated and seeded."""
    with freetier.open(tmp_path / "ledger.db", POLICY):
        return tmp_path / "ledger.db"


def queue_of(path: Path) -> Path:
    """The file that the writers of a ledger queue at."""
    return path.with_name(f"{path.name}-queue")


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    return any(file.resolve() == path for file in Path("/proc/self/fd").iterdir())


@contextmanager
def held(path: Path, how: str = "alone") -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the turn until it is killed; a child that it forks lives on longer."""
    command = [sys.executable, "-c", HOLD, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def at_look(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Act when so many looks found the turn another's; the looks, as they are counted."""
    looks: list[int] = []

    class Time:
        @staticmethod
        def sleep(seconds: float) -> None:
            looks.append(len(looks) + 1)
            assert looks[-1] < FOREVER
            if looks[-1] == number:
                act()
            time.sleep(seconds)

    monkeypatch.setattr(_sqlite_queue, "time", Time)
    return looks


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_killed_process_loses_its_turn(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write waits while another process has the turn; killed, that one holds up nobody.

    Not even by a child that it forked during its turn, and that lives on.
    """
    with held(path, how) as other, SQLiteRepository(path, timeout_s=3600) as repository:
        looks = at_look(LOOKS, lambda: os.kill(other.pid, signal.SIGKILL), monkeypatch)
        assert FreeTier(POLICY, repository).reserve(JOB).absorb_sats == 1
        assert len(looks) >= LOOKS


def test_the_threads_of_a_process_queue_as_well(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread has the turn, another one's write waits; then it is written."""
    with SQLiteRepository(path, timeout_s=3600) as repository:
        ledger = FreeTier(POLICY, repository)
        waited = threading.Event()
        at_look(LOOKS, waited.set, monkeypatch)
        other = threading.Thread(target=ledger.reserve, args=(JOB,))

        def work(connection: object) -> bool:
            other.start()
            return waited.wait(60)

        assert repository._connections.patiently(work, writes=True)
        other.join()
        assert ledger.pool_status().reserved_sats == 1


@pytest.mark.parametrize("timeout_s", [0, 0.1])
def test_a_turn_that_never_comes(
    path: Path, timeout_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited for half of its deadline writes out of turn: SQLite's own lock is enough."""
    at_look(LOOKS, lambda: None, monkeypatch)
    with held(path) as other, SQLiteRepository(path, timeout_s=timeout_s) as repository:
        ledger = FreeTier(POLICY, repository)
        assert ledger.reserve(JOB).absorb_sats == 1
        assert other.poll() is None
        assert ledger.verify().ok


def test_reading_waits_for_no_turn(path: Path) -> None:
    """A decision and a status are given while another process has the turn, and make no queue."""
    queue_of(path).unlink()
    with SQLiteRepository(path, timeout_s=0) as repository:
        ledger = FreeTier(POLICY, repository)
        assert ledger.decide(JOB).absorb_sats == 1
        assert ledger.pool_status().balance_sats == 10**6
        assert not queue_of(path).exists()


def _folder(queue: Path, elsewhere: Path) -> None:
    queue.mkdir()


def _link(queue: Path, elsewhere: Path) -> None:
    queue.symlink_to(elsewhere)


@pytest.mark.parametrize("put", [_folder, _link])
def test_no_queue_to_be_had(path: Path, tmp_path: Path, put: Callable[[Path, Path], None]) -> None:
    """Where its file cannot be, writes go on without; a link in its place is not followed."""
    queue_of(path).unlink()
    put(queue_of(path), tmp_path / "elsewhere")
    with freetier.open(path, POLICY) as ledger:
        assert ledger.reserve(JOB).absorb_sats == 1
        assert ledger.verify().ok
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("database", "queue"), [(0o644, 0o600), (0o664, 0o660), (0o600, 0o600)])
def test_who_may_queue(path: Path, database: int, queue: int) -> None:
    """Who may write the database may queue, whatever the maker's umask; a reader may not."""
    queue_of(path).unlink()
    path.chmod(database)
    umask = os.umask(0o077)
    try:
        with freetier.open(path, POLICY) as ledger:
            ledger.reserve(JOB)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(queue_of(path).stat().st_mode) == queue


def test_one_queue_for_all_names(path: Path, tmp_path: Path) -> None:
    """A database that is opened by a link has its queue beside the file that the link leads to."""
    queue_of(path).unlink()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with freetier.open(link, POLICY) as ledger:
        ledger.reserve(JOB)
    assert queue_of(path).exists()
    assert not queue_of(link).exists()


def test_closing_ends_the_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that waits for its turn when the ledger is closed is refused; no file stays open."""
    with held(path):
        repository = SQLiteRepository(path, timeout_s=3600)
        waited = threading.Event()
        at_look(LOOKS, waited.set, monkeypatch)
        refused: list[ConfigError] = []

        def write() -> None:
            with pytest.raises(ConfigError, match="closed") as caught:
                FreeTier(POLICY, repository).reserve(JOB)
            refused.append(caught.value)

        thread = threading.Thread(target=write)
        thread.start()
        assert waited.wait(60)
        repository.close()
        thread.join()
        assert len(refused) == 1
    assert not is_open(queue_of(path))


def test_closing_from_within_the_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's handler may close the place that its own thread waits at; it stays given up."""
    queue = Queue(str(path))
    at_look(LOOKS, lambda: None, monkeypatch)

    def waits() -> bool:
        queue.close()
        return True

    with held(path), queue.turn(waits):
        assert not is_open(queue_of(path))
