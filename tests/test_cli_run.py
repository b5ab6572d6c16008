"""`freetier run`: the main job on a file, done once however often it is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import freetier
from freetier import FreeTier, FreeTierPolicy, Kind, Report, Request, cli
from freetier.audit import Problem

if sys.platform != "win32":
    import pty

Run = Callable[..., tuple[int, str, str]]
Lines = list[dict[str, Any]]

DB = "ledger.db"
HEADER = "request_id,identity,tier,price_sats,actual_sats,time"
THREE = f"""{HEADER}
job-1,ada,trusted,120,95,2025-03-01T10:00:00Z
job-2,,,40,,2025-03-01T10:00:01Z
job-3,ada,trusted,150,150,2025-03-01T10:00:02Z
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting from outside, and a folder of its own."""
    for name in [name for name in os.environ if name.startswith("FREETIER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a file on the ledger; exit code, standard output, standard error."""

    def command(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["run", "--db", DB, *argv])
        return code, *capsys.readouterr()

    return command


def written(text: str, name: str = "requests.csv") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def decided(run: Run, file: str, *flags: str) -> tuple[Lines, dict[str, Any]]:
    """The decisions and the totals of a run that goes well."""
    code, out, err = run(file, "--json", *flags)
    assert (code, err) == (0, "")
    *rows, last = map(json.loads, out.splitlines())
    return rows, last["totals"]


def journal() -> list[freetier.Entry]:
    with freetier.open(DB, FreeTierPolicy()) as ledger:
        return list(ledger.journal())


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
        ("job-3", "partial", 105, "budget", 105, 45, 4),
    ]
    assert rows[2]["resets_at"] == "2025-03-02T00:00:00Z"
    assert totals["run"]["serves"] == {"free": 1, "partial": 1, "gate": 1}
    assert totals["run"]["bound_by"] == {"anonymous": 1, "budget": 1}
    assert (totals["run"]["price_sats"], totals["run"]["credited_sats"]) == (310, 8)
    assert totals["verify"]["ok"]


def test_known_cost_is_paid_at_once(run: Run) -> None:
    """A row without an actual cost is one grant; with one it is held, then settled."""
    decided(run, written("identity,tier,price_sats,actual_sats\nada,trusted,5,\nada,trusted,9,7\n"))
    assert [entry.kind for entry in journal()] == [Kind.SEED, Kind.GRANT, Kind.RESERVE, Kind.SETTLE]


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
    terms = re.findall(r"([+-]?) ?(\d+) \w", line)
    *parts, balance = [int(sign + sats) for sign, sats in terms]
    assert sum(parts) == balance == 10_000 + 8 - 200
    assert err.splitlines()[-1].startswith("verified: all 10 invariants hold")


def test_twice_changes_nothing(run: Run) -> None:
    """The same file again prints the same and leaves the journal as it is."""
    file = written(many_rows(60))
    first, before = run(file), journal()
    assert run(file) == first
    assert journal() == before


def test_appended(run: Run) -> None:
    """Of a file that grew, only the new rows are processed; ids are made of what a row says."""
    text = "identity,tier,price_sats\nada,trusted,5\nada,trusted,5\n"
    first, _ = decided(run, written(text))
    before = journal()
    assert len({row["request_id"] for row in first}) == 2
    # The same rows, quoted and with other line ends, and one more.
    again, _ = decided(
        run, written(text.replace("ada", '"ada"').replace("\n", "\r\n") + "bob,new,3")
    )
    assert again[:2] == first
    assert journal()[: len(before)] == before
    assert len(journal()) == len(before) + 1  # the new row's credit


def test_generated_id(run: Run) -> None:
    """The id of a row without one is its number and a hash of its canonical JSON."""
    rows, _ = decided(run, written("tier,price_sats\nnew,5\n"))
    digest = sha256(b'{"price_sats":"5","tier":"new"}').hexdigest()
    assert rows[0]["request_id"] == f"row-1-{digest[:12]}"


def test_killed(run: Run, tmp_path: Path) -> None:
    """A run that is killed, three times over, ends with the journal of one that was not."""
    file = written(many_rows(400))
    decided(run, file)
    undisturbed = journal()
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
        assert 0 < len(journal()) < len(undisturbed)

    _, totals = decided(run, file)
    assert journal() == undisturbed
    assert totals["verify"]["ok"]


@pytest.fixture
def _tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is not on UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs tzset")
@pytest.mark.usefixtures("_tokyo")
def test_times(run: Run) -> None:
    """The row's time is the ledger's: naive is UTC, seven digits are cut, an offset counts."""
    times = ("2023-11-16 18:15:46.6805909", "2023-11-16T18:15:47Z", "2023-11-16T20:15:48+02:00")
    rows = "".join(f"ada,trusted,5,{at}\n" for at in times)
    decided(run, written(f"identity,tier,price_sats,when\n{rows}"), "--columns", "time=when")
    assert [entry.at for entry in journal()[1:]] == [
        datetime(2023, 11, 16, 18, 15, 46, 680590, UTC),
        datetime(2023, 11, 16, 18, 15, 47, 0, UTC),
        datetime(2023, 11, 16, 18, 15, 48, 0, UTC),
    ]
    assert journal()[0].at == journal()[1].at  # the seed does not stand in the way


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
    assert {entry.at.day for entry in journal()} == {2}
    assert "1 rows are older than the ledger" in run(file)[2]


def test_tokens(run: Run) -> None:
    """A row without a price is priced by its tokens, at the rates of the flags."""
    file = written("identity,tier,in,out\nada,elite,1000000,0\nada,elite,0,1000\n")
    columns = ("--columns", "input_tokens=in,output_tokens=out")
    rows, _ = decided(run, file, *columns)
    assert [row["price_sats"] for row in rows] == [4200, 21]  # 3 and 0.015 USD, plus 40 %
    Path(DB).unlink()
    rates = ("--input-usd-per-million", "1", "--output-usd-per-million", "2", "--margin-pct", "0")
    rows, _ = decided(run, file, *columns, *rates, "--btc-usd", "50000")
    assert [row["price_sats"] for row in rows] == [2000, 4]


def test_unpaid(run: Run) -> None:
    """With --unpaid no caller pays, so nothing is credited."""
    _, totals = decided(run, written(THREE), "--unpaid")
    assert totals["run"]["credited_sats"] == 0
    assert Kind.CREDIT not in {entry.kind for entry in journal()}


def test_spread(run: Run) -> None:
    """--identities spreads rows by the documented rule, each identity in one tier for good."""

    def h(text: str) -> int:
        return int.from_bytes(sha256(text.encode()).digest()[:8], "big")

    def tier(number: int) -> str:
        point = h(f"7/tier/{number}") % 100
        return (
            "new"
            if point < 40
            else "established"
            if point < 70
            else ("trusted" if point < 90 else "elite")
        )

    rows, _ = decided(
        run, written("price_sats\n" + "1\n" * 200), "--identities", "50", "--seed", "7"
    )
    numbers = [h(f"7/{row}") % 50 for row in range(1, 201)]
    assert [row["identity"] for row in rows] == [f"id-{number:03}" for number in numbers]
    assert [row["tier"] for row in rows] == [tier(number) for number in numbers]
    assert {row["tier"] for row in rows} == {"new", "established", "trusted", "elite"}


def test_spread_over_own_tiers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy with other tiers has about as many identities in each."""
    monkeypatch.setenv("FREETIER_BUDGET_PATRON", "5000")
    rows, _ = decided(run, written("price_sats\n" + "1\n" * 400), "--identities", "400")
    tiers = {row["identity"]: row["tier"] for row in rows}
    counts = [list(tiers.values()).count(tier) for tier in set(tiers.values())]
    assert len(counts) == 5
    assert min(counts) * 2 > max(counts)


def test_formats_agree(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The same requests as CSV and as JSON lines lead to the same journal."""
    header, *rows = (line.split(",") for line in THREE.splitlines())
    lines = [dict(zip(header, row, strict=True)) for row in rows]
    numbers = ("price_sats", "actual_sats")
    objects: Iterable[dict[str, object]] = (
        {
            name: int(cell) if name in numbers and cell else cell or None
            for name, cell in row.items()
        }
        for row in lines
    )
    text = "\n\n".join(json.dumps(each) for each in objects)
    from_csv, _ = decided(run, written(THREE))
    before = journal()
    Path(DB).unlink()
    assert decided(run, written(text, "requests.jsonl"))[0] == from_csv
    assert journal() == before


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (THREE, []),
        (THREE, ["--format", "csv"]),
        ("\ufeff" + THREE, []),
        ('\n {"request_id": "job-1", "price_sats": 120}\n', []),
        ('{"request_id": "job-1", "price_sats": 120}', ["--format", "jsonl"]),
    ],
)
def test_stdin(text: str, flags: list[str]) -> None:
    """`-` reads the standard input, and finds out the format unless it is told."""
    done = subprocess.run(
        [sys.executable, "-m", "freetier", "run", "-", "--db", DB, "--json", *flags],
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[0])["request_id"] == "job-1"


GOOD = "job-0,ada,trusted,5,,2025-03-01\n"


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("a,ada,trusted,1k,,2025-03-01", "price_sats: expected a whole number, got '1k'"),
        ("a,ada,trusted,-1,,2025-03-01", "price_sats: expected a whole number, got '-1'"),
        ("a,ada,trusted,5.0,,2025-03-01", "price_sats: expected a whole number, got '5.0'"),
        ("a,ada,trusted,\u0665,,2025-03-01", "price_sats: expected a whole number"),
        ("a,ada,trusted,9999999999999999,,2025-03-01", "price_sats: expected a whole number of"),
        ("a,ada,trusted,,,2025-03-01", "price_sats: expected a price, or input_tokens and"),
        ("a,ada,trusted,5,x,2025-03-01", "actual_sats: expected a whole number, got 'x'"),
        ("a,ada,trusted,5,9999999999999999,2025-03-01", "actual_sats: expected a whole number of"),
        ("a,ada,gold,5,,2025-03-01", "tier: expected one of the tiers"),
        ("a,ada,,5,,2025-03-01", "tier: expected one of the tiers"),
        ("a, ada,trusted,5,,2025-03-01", "identity: expected printable characters"),
        ("a<b,ada,trusted,5,,2025-03-01", "request_id: expected text without"),
        ("a,ada,trusted,5,,yesterday", "time: expected a time as 2023-11-16T18:15:46Z"),
        ("a,ada,trusted,5,,1969-12-31", "time: expected an aware datetime from 1970"),
        ("a,ada,trusted,5,,9999-12-31", "time: expected an aware datetime from 1970"),
        ("a,ada,trusted,5,,", "time: expected one in every row, or in none"),
        ("a,ada,trusted", "row: expected 6 cells, as in the header"),
        ("a,ada,trusted,5,,2025-03-01,more", "row: expected 6 cells, as in the header"),
        ('a,"ada,trusted,5,,2025-03-01', "row: expected well-formed CSV"),
        ("job-0,ada,trusted,6,,2025-03-01", "request 'job-0' (str) was asked before"),
    ],
)
def test_bad_row(run: Run, row: str, error: str) -> None:
    """A bad row is an error that names file, row, field and value; what is before it stays done."""
    code, out, err = run(written(f"{HEADER}\n{GOOD}{row}\n"))
    assert code == 2
    assert len(out.splitlines()) == 3
    hint, message = err.splitlines()
    assert "done up to row 1" in hint
    assert f": requests.csv, row 2: {error}" in message
    assert [entry.kind for entry in journal()] == [Kind.SEED, Kind.GRANT]


@pytest.mark.parametrize("row", ["[1]", "3", "{", '{"price_sats": 1.5}', '{"price_sats": true}'])
def test_bad_json_row(run: Run, row: str) -> None:
    """A line that is no JSON object, or holds no whole number, is an error that names the row."""
    code, _, err = run(written(f'{{"price_sats": 3}}\n{row}\n', "requests.jsonl"))
    assert code == 2
    assert "freetier: InvalidInput: requests.jsonl, row 2: " in err


@pytest.mark.parametrize(
    ("text", "flags", "error"),
    [
        ("", [], "FILE: expected a file with at least one request"),
        (HEADER, [], "FILE: expected a file with at least one request"),
        ("a,a\n1,2\n", [], "row 1: header: expected a name of its own for each column"),
        ("price_sats\n\udcff\n", [], "row 1: text: expected UTF-8"),
        ("price_sats\nx\n", [], "row 1: price_sats: expected a whole number, got 'x'"),
        (THREE, ["--columns", "tiem=t"], "did you mean time?"),
        (THREE, ["--columns", "time"], "--columns: expected time=COLUMN, once"),
        (THREE, ["--columns", "time=when"], "--columns time: expected one of request_id, "),
        (THREE, ["--columns", "price_sats=time"], "price_sats (column time): expected a whole"),
        (THREE, ["--identities", "5"], "identity: expected none in a file for --identities"),
        (THREE, ["--identities", "0"], "identities: expected a whole number from 1"),
        (THREE, ["--btc-usd", "0"], "btc_usd: expected a Decimal from 0.01"),
    ],
)
def test_bad_file(run: Run, text: str, flags: list[str], error: str) -> None:
    """What is wrong before the first row is done is an error, and no ledger is made."""
    Path("requests.csv").write_bytes(text.encode(errors="surrogateescape"))
    code, out, err = run("requests.csv", *flags)
    assert (code, out) == (2, "")
    assert err.startswith("freetier: InvalidInput: ")
    assert error in err
    assert not Path(DB).exists()


def test_no_file(run: Run) -> None:
    """A file that is not there is an error of ours."""
    code, _, err = run("nowhere.csv")
    assert code == 2
    assert err.startswith("freetier: InvalidInput: FILE: expected a file to read (No such file")


def test_request_known_otherwise(run: Run) -> None:
    """A request that a host holds already is settled by the run, and drawn for once."""
    with freetier.open(DB, FreeTierPolicy()) as ledger:
        ledger.reserve(Request("job-1", "ada", "trusted", 120))
    decided(run, written("request_id,identity,tier,price_sats\njob-1,ada,trusted,120\n"))
    assert [entry.kind for entry in journal()] == [Kind.SEED, Kind.RESERVE, Kind.SETTLE]


def test_not_verified(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a ledger that does not verify exits 1 and says so."""
    broken = Report(1, 0, 0, (Problem(1, 1, "for the test"),))
    monkeypatch.setattr(FreeTier, "verify", lambda _: broken)
    code, _, err = run(written(THREE))
    assert code == 1
    assert "broken: 1 of 10 invariants" in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
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
