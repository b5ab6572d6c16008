"""`verify` of a journal of a million entries."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import freetier
from freetier import FreeTierPolicy, Request
from freetier.testing import Clock

ENTRIES = 1_000_000
IDENTITIES = 1_000
POLICY = FreeTierPolicy(seed_sats=ENTRIES, budgets={"elite": ENTRIES})


def filled(path: Path, entries: int) -> None:
    """A ledger with so many entries: copies of one that the library wrote, by plain SQL."""
    with freetier.open(path, POLICY, clock=Clock()) as ledger:
        ledger.record_grant(Request("job-2", "id-2", "elite", 1))
    with closing(sqlite3.connect(path)) as connection:
        guards = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        first = connection.execute("SELECT * FROM freetier_journal WHERE 1 = 0")
        columns = [column for column, *_ in first.description if column != "once"]
        changed = {
            "seq": "n",
            "key": "'job-' || n",
            "at_us": "at_us + n",
            "identity": f"'id-' || n % {IDENTITIES}",
            "balance_sats": "balance_sats - (n - 2)",
        }
        figures = ", ".join(changed.get(column, column) for column in columns)
        connection.execute(
            "WITH RECURSIVE counted (n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM counted"
            f" WHERE n < {entries}) INSERT INTO freetier_journal ({', '.join(columns)})"
            f" SELECT {figures} FROM counted JOIN freetier_journal ON seq = 2"
        )
        connection.execute(
            "UPDATE freetier_pool SET (seq, at_us, balance_sats, grant_sats) ="
            " (SELECT seq, at_us, balance_sats, seq - 1 FROM freetier_journal"
            " ORDER BY seq DESC LIMIT 1)"
        )
        connection.execute("DELETE FROM freetier_usage")
        for scope, name in (("identity", "identity"), ("tier", "tier"), ("pool", "''")):
            connection.execute(
                "INSERT INTO freetier_usage (pool, day, scope, name, used_sats)"
                f" SELECT pool, day, '{scope}', {name}, sum(used_change) FROM freetier_journal"
                f" WHERE seq > 1 GROUP BY pool, day, {name}"
            )
        for _, guard in guards:
            connection.execute(guard)
        connection.commit()


PROVE = """
import re, sys
from pathlib import Path
from freetier.cli import main
status = main(["verify", "--db", sys.argv[1]])
print(re.search("VmHWM:(.*) kB", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


def peak_kb(path: Path, entries: int) -> int:
    """The most memory that `freetier verify` takes, once it has proved so many entries."""
    command = [sys.executable, "-c", PROVE, str(path)]
    proved = subprocess.run(command, capture_output=True, text=True, check=True)
    *_, verdict, peak = proved.stdout.splitlines()
    assert verdict == f"verified: all 10 invariants hold over {entries} entries"
    return int(peak)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_entries(tmp_path: Path) -> None:
    """A million entries are proved, in the memory that a tenth of them takes."""
    peaks = []
    for entries in (ENTRIES // 10, ENTRIES):
        path = tmp_path / f"{entries}.db"
        filled(path, entries)
        peaks.append(peak_kb(path, entries))
    assert peaks[1] < 1.1 * peaks[0]
