"""SQLite across forks and threads: what it forbids is refused, before it loses a write."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import freetier
from freetier import ConfigError, FreeTierPolicy, Request
from freetier._sqlite_own import Own, _Connection

POLICY = FreeTierPolicy(budgets={"elite": 10**6}, seed_sats=10**6)

FORK = """
import os, sys, freetier
from freetier import FreeTierPolicy, Request

path, close_first = sys.argv[1], sys.argv[2] == "close first"
policy = FreeTierPolicy(budgets={"elite": 100}, seed_sats=1000)
ledger = freetier.open(path, policy)
ledger.reserve(Request("parent", "ada", "elite", 1))
if close_first:
    ledger.close()
child = os.fork()
if child == 0:
    try:
        with freetier.open(path, policy) as own:
            own.reserve(Request("child", "ada", "elite", 1))
    except freetier.ConfigError as error:
        os._exit(7 if "before the fork" in str(error) else 1)
    os._exit(0)
_, status = os.waitpid(child, 0)
ledger.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def forked(path: Path, how: str) -> int:
    """How the child of a fork ends that opens the ledger that its parent had opened."""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORK]
    return subprocess.run([*command, path, how], check=False, timeout=60).returncode


def test_a_file_that_was_open_at_the_fork_is_refused(tmp_path: Path) -> None:
    """A child opens no second connection to a file that it inherited: its writes would be lost."""
    assert forked(tmp_path / "ledger.db", "stay open") == 7
    assert forked(tmp_path / "other.db", "close first") == 0
    with freetier.open(tmp_path / "other.db", POLICY) as ledger:
        assert [entry.key for entry in ledger.journal()] == ["seed", "parent", "child"]


EXIT = """
import os, signal, subprocess, sys, freetier
from freetier import FreeTierPolicy

os.chdir(sys.argv[1])
ledger = freetier.open("ledger.db", FreeTierPolicy())
os.chdir("/")  # a relative path is the one that it was
may_exit, go = os.pipe()
child = os.fork()
if child == 0:
    os.read(may_exit, 1)
    ledger.close()  # the parent's to close: here it does nothing
    sys.exit(0)
ledger.close()
writer = '''
import os, signal, sys, freetier
ledger = freetier.open(sys.argv[1] + "/ledger.db", freetier.FreeTierPolicy())
ledger.donate("acknowledged", 1)
os.kill(os.getpid(), signal.SIGKILL)
'''
subprocess.run([sys.executable, "-c", writer, sys.argv[1]], check=False)
os.write(go, b"x")
os.waitpid(child, 0)
"""


def test_a_child_that_exits_takes_nothing_along(tmp_path: Path) -> None:
    """A forked child that ends does not remove the log of a process that was killed meanwhile."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", EXIT, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    with freetier.open(tmp_path / "ledger.db", POLICY) as ledger:
        assert "acknowledged" in [entry.key for entry in ledger.journal()]


SIGNAL = """
import signal, sys, freetier
from freetier import ConfigError, FreeTierPolicy, OutcomeUnknown, Request

ledger = freetier.open(sys.argv[1], FreeTierPolicy(budgets={"elite": 10**6}, seed_sats=10**6))
signal.signal(signal.SIGALRM, lambda *_: ledger.close())
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    for number in range(10**6):
        ledger.reserve(Request(f"job-{number}", "ada", "elite", 1))
except (ConfigError, OutcomeUnknown):
    sys.exit(7)
"""


def test_closing_from_a_signal(tmp_path: Path) -> None:
    """A signal's handler may close the ledger in the middle of a call of its own thread."""
    command = [sys.executable, "-W", "error", "-c", SIGNAL, str(tmp_path / "ledger.db")]
    for _ in range(3):
        assert subprocess.run(command, check=False, timeout=60).returncode == 7


class _ClosedOnTheWay(Own):
    """Connections that another thread closes when one was looked up and not yet entered."""

    def _connection(self) -> _Connection:
        connection = super()._connection()
        self.close()
        return connection


def test_closing_on_the_way_in(tmp_path: Path) -> None:
    """A write that had not begun when the ledger closed is refused; its outcome is not unknown."""
    connections = _ClosedOnTheWay(tmp_path / "ledger.db", timeout_s=1)
    with pytest.raises(ConfigError, match="was closed"):
        connections.patiently(lambda connection: connection.execute("SELECT 1"), writes=True)


def test_closing_under_load(tmp_path: Path) -> None:
    """A ledger that is closed while threads are inside of it finishes their calls, then refuses."""
    for turn in range(5):
        ledger = freetier.open(tmp_path / f"{turn}.db", POLICY)
        acknowledged: list[str] = []
        others: list[BaseException] = []

        def work(
            number: int,
            ledger: freetier.FreeTier = ledger,
            acknowledged: list[str] = acknowledged,
            others: list[BaseException] = others,
        ) -> None:
            try:
                for turn in range(10_000):
                    key = f"{number}-{turn}"
                    ledger.reserve(Request(key, f"id-{number}", "elite", 1))
                    acknowledged.append(key)
            except ConfigError:
                return
            except BaseException as error:
                others.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 20 and not others:
            pass
        ledger.close()
        for thread in threads:
            thread.join()
        assert others == []
        with freetier.open(tmp_path / f"{turn}.db", POLICY) as again:
            assert set(acknowledged) <= {entry.key for entry in again.journal()}
            assert again.verify().ok
