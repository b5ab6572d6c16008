"""What `freetier run` reads: its formats, its fields, and how it says that a row is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest

from freetier import Kind
from tests.command import Run, decided, in_folder, journal, written

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


def test_generated_id(run: Run) -> None:
    """The id of a row without one is its number and a hash of its canonical JSON."""
    rows, _ = decided(run, written("tier,price_sats\nnew,5\n"))
    digest = sha256(b'{"price_sats":"5","tier":"new"}').hexdigest()
    assert rows[0]["request_id"] == f"row-1-{digest[:12]}"


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


def test_spread(run: Run) -> None:
    """--identities spreads rows by the documented rule, each identity in one tier for good."""

    def h(text: str) -> int:
        return int.from_bytes(sha256(text.encode()).digest()[:8], "big")

    def tier(number: int) -> str:
        hundred = ["new"] * 40 + ["established"] * 30 + ["trusted"] * 20 + ["elite"] * 10
        return hundred[h(f"7/tier/{number}") % 100]

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


def test_formats_agree(run: Run) -> None:
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
    before = journal(DB)
    Path(DB).unlink()
    assert decided(run, written(text, "requests.jsonl"))[0] == from_csv
    assert journal(DB) == before


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
        ("job-0,ada,trusted,6,,2025-03-01", "request 'job-0'"),
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
    assert [entry.kind for entry in journal(DB)] == [Kind.SEED, Kind.GRANT]


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
