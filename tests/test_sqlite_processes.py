"""SQLite across forks and threads: what it forbids is refused, before it loses a write."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import freetier
from freetier import ConfigError, FreeTierPolicy, Request

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
