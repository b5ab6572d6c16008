"""`freetier run`: the main job on a file, done once however often it is run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import freetier
from freetier import FreeTier, FreeTierPolicy, Kind, Report, Request
from freetier.audit import Problem
from tests.command import Run, added_up, decided, in_folder, journal, written

if sys.platform != "win32":
    import pty

DB = "ledger.db"
HEADER = "request_id,identity,tier,price_sats,actual_sats,time"
THREE = f"""{HEADER}
job-1,ada,trusted,120,95,2025-03-01T10:00:00Z
job-2,,,40,,2025-03-01T10:00:01Z
job-3,ada,trusted,150,130,2025-03-01T10:00:02Z
"""


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a file on the ledger; exit code, standard output, standard error."""
    command = in_folder(tmp_path, monkeypatch, capsys)
    return lambda *argv: command("run", "--db", DB, *argv)


def many_rows(count: int) -> str:
    """Rows of 7 identities over some days, every third with a real cost of its own."""
    tiers = ("new", "established", "trusted", "elite")
    rows = [HEADER]
    for number in range(count):
        identity = number * 5 % 7
        price = 1 + number * 37 % 90
        actual = str(price * (number % 5) // 3) if number % 3 == 0 else ""
        at = datetime.fromtimestamp(1_740_000_000 + number * 1500, UTC).isoformat()
        who = f"id-{identity},{tiers[identity % 4]}" if identity else ","
        rows.append(f"job-{number},{who},{price},{actual},{at}")
    return "\n".join(rows) + "\n"


def test_one_line_a_row(run: Run) -> None:
    """Each row gives its decision, how it ended, and what its payment put into the pool."""
    rows, totals = decided(run, written(THREE))
    figures = [
        (
            row["request_id"],
            row["serve"],
            row["absorb_sats"],
            row["bound_by"],
            row["settlement"]["absorbed_sats"],
            row["settlement"]["charged_sats"],
            row["credited_sats"],
        )
        for row in rows
    ]
    assert figures == [
        ("job-1", "free", 120, None, 95, 0, 0),
        ("job-2", "gate", 0, "anonymous", 0, 40, 4),
        ("job-3", "partial", 105, "budget", 105, 25, 2),
    ]
    assert rows[2]["resets_at"] == "2025-03-02T00:00:00Z"
    assert totals["run"]["serves"] == {"free": 1, "partial": 1, "gate": 1}
    assert totals["run"]["bound_by"] == {"anonymous": 1, "budget": 1}
    assert totals["run"]["price_sats"] == 120 + 40 + 150
    assert totals["run"]["absorbed_sats"] == 95 + 105
    assert totals["run"]["charged_sats"] == 40 + 25
    assert totals["run"]["credited_sats"] == 4 + 2
    assert totals["verify"]["ok"]


def test_known_cost_is_paid_at_once(run: Run) -> None:
    """A row without an actual cost is one grant; with one it is held, then settled."""
    decided(run, written("identity,tier,price_sats,actual_sats\nada,trusted,5,\nada,trusted,9,7\n"))
    assert [entry.kind for entry in journal(DB)] == [
        Kind.SEED,
        Kind.GRANT,
        Kind.RESERVE,
        Kind.SETTLE,
    ]


def test_table(run: Run) -> None:
    """The table goes to the standard output, the totals beside it, and they add up by hand."""
    code, out, err = run(written(THREE))
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:]] == [
        ["1", "job-1"],
        ["2", "job-2"],
        ["3", "job-3"],
    ]
    assert "rows      3: 1 free, 1 partial, 1 gate" in err
    (line,) = [line for line in err.splitlines() if line.startswith("ledger")]
    balance = 10_000 + 6 - 200
    assert added_up(line) == (balance, balance)
    assert err.splitlines()[-1].startswith("verified: all 10 invariants hold")


def test_twice_changes_nothing(run: Run) -> None:
    """The same file again prints the same and leaves the journal as it is."""
    file = written(many_rows(60))
    first, before = run(file), journal(DB)
    assert run(file) == first
    assert journal(DB) == before


def test_appended(run: Run) -> None:
    """Of a file that grew, only the new rows are processed; ids are made of what a row says."""
    text = "identity,tier,price_sats\nada,trusted,5\nada,trusted,5\n"
    first, _ = decided(run, written(text))
    before = journal(DB)
    assert len({row["request_id"] for row in first}) == 2
    # The same rows, quoted and with other line ends, and one more.
    again, _ = decided(
        run, written(text.replace("ada", '"ada"').replace("\n", "\r\n") + "bob,new,3")
    )
    assert again[:2] == first
    assert journal(DB)[: len(before)] == before
    assert len(journal(DB)) == len(before) + 1  # the new row's credit


def test_killed(run: Run, tmp_path: Path) -> None:
    """A run that is killed, three times over, ends with the journal of one that was not."""
    file = written(many_rows(400))
    decided(run, file)
    undisturbed = journal(DB)
    for entry in tmp_path.glob(f"{DB}*"):
        entry.unlink()

    for rows_shown in (30, 140, 290):
        with subprocess.Popen(
            [sys.executable, "-m", "freetier", "run", file, "--db", DB, "--json"],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            pipesize=4096,  # a few rows: it cannot run ahead of us
        ) as process:
            assert process.stdout is not None
            for _ in range(rows_shown):
                assert process.stdout.readline()
            process.kill()
        assert 0 < len(journal(DB)) < len(undisturbed)

    _, totals = decided(run, file)
    assert journal(DB) == undisturbed
    assert totals["verify"]["ok"]


@pytest.fixture
def _tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is not on UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_tokyo")
def test_times(run: Run) -> None:
    """The row's time is the ledger's: naive is UTC, seven digits are cut, an offset counts."""
    times = ("2023-11-16 18:15:46.6805909", "2023-11-16T18:15:47Z", "2023-11-16T20:15:48+02:00")
    rows = "".join(f"ada,trusted,5,{at}\n" for at in times)
    decided(run, written(f"identity,tier,price_sats,when\n{rows}"), "--columns", "time=when")
    assert [entry.at for entry in journal(DB)[1:]] == [
        datetime(2023, 11, 16, 18, 15, 46, 680590, UTC),
        datetime(2023, 11, 16, 18, 15, 47, 0, UTC),
        datetime(2023, 11, 16, 18, 15, 48, 0, UTC),
    ]
    assert journal(DB)[0].at == journal(DB)[1].at  # the seed does not stand in the way


def test_days(run: Run) -> None:
    """An allowance is new when the rows' UTC day is."""
    rows = "ada,established,50,2025-03-01 23:59\nada,established,9,2025-03-01 23:59:59\n"
    rows += "ada,established,50,2025-03-02 00:00\n"
    lines, _ = decided(run, written(f"identity,tier,price_sats,time\n{rows}"))
    assert [row["serve"] for row in lines] == ["free", "gate", "free"]


def test_unsorted(run: Run) -> None:
    """In an unsorted file time stands still rather than run back, and the totals say so."""
    rows = "ada,trusted,5,2025-03-02 10:00\nada,trusted,5,2025-03-01 10:00\n"
    file = written(f"identity,tier,price_sats,time\n{rows}")
    _, totals = decided(run, file)
    assert totals["run"]["moved"] == 1
    assert {entry.at.day for entry in journal(DB)} == {2}
    assert "1 rows are older than the ledger" in run(file)[2]


def test_unpaid(run: Run) -> None:
    """With --unpaid no caller pays, so nothing is credited."""
    _, totals = decided(run, written(THREE), "--unpaid")
    assert totals["run"]["credited_sats"] == 0
    assert Kind.CREDIT not in {entry.kind for entry in journal(DB)}


def test_request_known_otherwise(run: Run) -> None:
    """A request that a host holds already is settled by the run, and drawn for once."""
    with freetier.open(DB, FreeTierPolicy()) as ledger:
        ledger.reserve(Request("job-1", "ada", "trusted", 120))
    decided(run, written("request_id,identity,tier,price_sats\njob-1,ada,trusted,120\n"))
    assert [entry.kind for entry in journal(DB)] == [Kind.SEED, Kind.RESERVE, Kind.SETTLE]


def test_not_verified(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a ledger that does not verify exits 1 and says so."""
    broken = Report(1, 0, 0, (Problem(1, 1, "for the test"),))
    monkeypatch.setattr(FreeTier, "verify", lambda _: broken)
    code, _, err = run(written(THREE))
    assert code == 1
    assert "broken: 1 of 10 invariants" in err


def test_progress(tmp_path: Path) -> None:
    """Rows that go into a file leave a count on the terminal, which is wiped at the end."""
    file = written(many_rows(600))
    ours, its = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "freetier", "run", file, "--db", DB],
            stdout=out,
            stderr=its,
            check=True,
        )
    os.close(its)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert " rows, " in shown
    assert "\r\x1b[K" in shown
    assert "verified" in shown
    assert " a second" not in (tmp_path / "out").read_text()
