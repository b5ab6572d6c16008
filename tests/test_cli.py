"""The command: its answers, its exit codes, and what it leaves alone."""

from __future__ import annotations

import json
import sqlite3
from argparse import Namespace
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import freetier
from freetier import FreeTierPolicy, Kind, Request, StoreReadOnly
from freetier._command.ledger import read_only
from tests.command import Run, added_up, in_folder, journal

READERS = (["status"], ["journal"], ["verify"], ["decide", "--price", "5"], ["schema"])


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder of its own; exit code, standard output, standard error."""
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.fixture
def db(tmp_path: Path) -> str:
    """A ledger with an entry of most kinds, and a grant that is still open."""
    path = str(tmp_path / "ledger.db")
    with freetier.open(path, FreeTierPolicy()) as ledger:
        ledger.record_grant(Request("paid", "ada", "trusted", 70))
        ledger.reserve(Request("settled", "ada", "trusted", 200))
        ledger.settle("settled", 150)
        ledger.credit("settled", 20)
        ledger.reserve(Request("open", "bob", "established", 30))
        ledger.reserve(Request("gated", "cyd", "new", 9))
    return path


def tamper(path: str, statement: str) -> None:
    """Change the journal behind the schema's back, and leave the schema as it was."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        made = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in made:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        for _, sql in made:
            connection.execute(sql)


@pytest.mark.parametrize(
    "argv",
    [
        *READERS,
        ["journal", "--after", "2", "--limit", "1"],
        ["schema", "--sql"],
        ["sweep"],
        ["donate", "gift", "5"],
        ["adjust", "lost", "-5", "--note", "found missing"],
    ],
    ids=" ".join,
)
def test_json_everywhere(run: Run, db: str, argv: list[str]) -> None:
    """With --json every line of the answer is JSON, and nothing else is printed."""
    code, out, err = run(*argv, "--json", "--db", db)
    assert (code, err) == (0, "")
    assert out
    for line in out.splitlines():
        json.loads(line)


@pytest.mark.parametrize("argv", [*READERS, ["sweep"]], ids=" ".join)
def test_missing_ledger(run: Run, tmp_path: Path, argv: list[str]) -> None:
    """A command that only reads, or only tidies, never makes a ledger that is not there."""
    code, out, err = run(*argv, "--db", "nowhere.db")
    assert (code, out) == (2, "")
    assert err.startswith("freetier: ConfigError: there is no ledger at 'nowhere.db'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", READERS, ids=" ".join)
def test_database_of_another_program(run: Run, tmp_path: Path, argv: list[str]) -> None:
    """A command that only reads does not migrate somebody else's database."""
    with closing(sqlite3.connect("other.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    before = (tmp_path / "other.db").read_bytes()
    code, _, err = run(*argv, "--db", "other.db")
    assert code == 2
    assert err.startswith("freetier: SchemaError: ")
    assert (tmp_path / "other.db").read_bytes() == before


@pytest.mark.parametrize("argv", READERS, ids=" ".join)
def test_not_a_database(run: Run, tmp_path: Path, argv: list[str]) -> None:
    """A file that is no database is an error that names it, without a traceback."""
    (tmp_path / "notes.db").write_text("a shopping list, much longer than a header " * 20)
    code, _, err = run(*argv, "--db", "notes.db")
    assert code == 2
    assert err.startswith("freetier: ConfigError: notes.db: ")
    assert len(err.splitlines()) == 1


def test_read_only_connection(db: str) -> None:
    """What reads cannot write, whatever it is asked to do."""
    with read_only(Namespace(db=db, schema=None)) as ledger, pytest.raises(StoreReadOnly):
        ledger.donate("gift", 5)


def test_ledger_by_variable(run: Run, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --db the ledger is FREETIER_DB, else freetier.db."""
    assert run("donate", "gift", "7")[0] == 0
    assert Path("freetier.db").is_file()
    monkeypatch.setenv("FREETIER_DB", f"sqlite:///{db}")
    assert json.loads(run("status", "--json")[1])["totals"]["grant"] == 70


def test_status_adds_up(run: Run, db: str) -> None:
    """The balance follows by hand from the totals that `status` prints."""
    run("adjust", "lost", "-25", "--note", "lost key", "--db", db)
    balance = 10_000 + 2 - 25 - 70 - 130
    line = run("status", "--db", db)[1].splitlines()[-1]
    assert added_up(line) == (balance, balance)


def test_status_figures(run: Run, db: str) -> None:
    """`status` has what is held, what is available, and the unmet demand."""
    pool = json.loads(run("status", "--json", "--db", db)[1])
    assert (pool["reserved_sats"], pool["available_sats"]) == (30, 10_000 + 2 - 70 - 130 - 30)
    assert (pool["open_grants"], pool["gated_today"], pool["gated_today_sats"]) == (1, 1, 9)
    assert pool["budgets"] == {"new": 0, "established": 50, "trusted": 200, "elite": 1000}


def test_journal_pages(run: Run, db: str) -> None:
    """`journal` gives the entries after SEQ, at most N, as the library does."""
    lines = run("journal", "--after", "1", "--limit", "2", "--json", "--db", db)[1].splitlines()
    known = journal(db)[1:3]
    assert [json.loads(line)["seq"] for line in lines] == [2, 3]
    for line, entry in zip(lines, known, strict=True):
        shown = json.loads(line)
        assert datetime.fromisoformat(shown["at"]) == entry.at
        assert shown["at"].endswith("Z")
        assert shown["day"] == entry.at.date().isoformat()
        assert (shown["kind"], shown["rooms"]) == (entry.kind, dict(entry.rooms or {}))


def test_verify_broken(run: Run, db: str) -> None:
    """`verify` exits 1 and names the first broken entry when the journal was changed."""
    assert run("verify", "--db", db)[0] == 0
    tamper(db, "UPDATE freetier_journal SET charge_sats = 1 WHERE seq = 2")
    code, out, _ = run("verify", "--db", db)
    assert code == 1
    assert "10  broken" in out
    assert "entry 2: absorb + charge is not price" in out
    code, out, _ = run("verify", "--json", "--db", db)
    report = json.loads(out)
    assert (code, report["ok"], report["problems"][0]["seq"]) == (1, False, 2)


def test_decide_shows_every_limit(run: Run, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`decide` shows each limit's room in the order of precedence, and which one binds."""
    monkeypatch.setenv("FREETIER_PER_REQUEST_SATS", "40")
    monkeypatch.setenv("FREETIER_TIER_CEILING_TRUSTED", "500")
    asked = ("decide", "--identity", "dan", "--tier", "trusted", "--price", "60", "--db", db)
    decision = json.loads(run(*asked, "--json")[1])
    assert list(decision["rooms"]) == ["budget", "tier_ceiling", "pool", "per_request"]
    assert (decision["serve"], decision["absorb_sats"]) == ("partial", 40)
    bound = [line for line in run(*asked)[1].splitlines() if "<- binds" in line]
    assert [line.split()[:2] for line in bound] == [["per_request", "40"]]


def test_decide_writes_nothing(run: Run, db: str) -> None:
    """`decide` changes no byte of the ledger, for a free answer and for a gate."""
    before = Path(db).read_bytes()
    assert run("decide", "--identity", "dan", "--tier", "elite", "--price", "5", "--db", db)[0] == 0
    assert run("decide", "--identity", "dan", "--tier", "new", "--price", "5", "--db", db)[0] == 0
    assert Path(db).read_bytes() == before
    pool = json.loads(run("status", "--json", "--db", db)[1])
    assert pool["gated_today"] == 1


def test_decide_tier(run: Run, db: str) -> None:
    """An anonymous caller needs no tier; an identity needs one that the policy knows."""
    assert json.loads(run("decide", "--price", "5", "--json", "--db", db)[1])["serve"] == "gate"
    for tier in ([], ["--tier", "gold"]):
        code, _, err = run("decide", "--identity", "dan", *tier, "--price", "5", "--db", db)
        assert code == 2
        assert "tier: expected one of the tiers new, established, trusted, elite" in err


def test_donate_once(run: Run, db: str) -> None:
    """The same donation again is none; with another amount it is a conflict."""
    first = run("donate", "gift", "500", "--sponsor", "Ada", "--note", "hi", "--db", db)
    again = run("donate", "gift", "500", "--sponsor", "Ada", "--note", "hi", "--db", db)
    assert first == again
    code, _, err = run("donate", "gift", "501", "--db", db)
    assert (code, err.split(":")[1]) == (2, " Conflict")
    assert [entry.balance_change for entry in journal(db) if entry.kind is Kind.DONATION] == [500]


def test_adjust_down(run: Run, db: str) -> None:
    """A negative adjustment is read as one, and a pool cannot be adjusted below what it holds."""
    assert run("adjust", "lost", "-25", "--note", "lost key", "--db", db)[0] == 0
    assert journal(db)[-1].balance_change == -25
    code, _, err = run("adjust", "more", "-10000", "--note", "too much", "--db", db)
    assert code == 2
    assert err.startswith("freetier: InvalidInput: sats: ")


def test_sweep_all(run: Run, db: str) -> None:
    """One `sweep` expires every grant that is due, however many calls that takes."""
    path = "old.db"
    with freetier.open(
        path, FreeTierPolicy(), clock=lambda: datetime(2024, 1, 1, tzinfo=UTC)
    ) as ledger:
        for number in range(70):
            ledger.reserve(Request(f"job-{number}", "ada", "elite", 2))
    assert json.loads(run("sweep", "--json", "--db", path)[1]) == {"expired": 70}
    assert json.loads(run("sweep", "--json", "--db", path)[1]) == {"expired": 0}


def test_schema_sql(run: Run, db: str) -> None:
    """What `schema --sql` prints makes a ledger that this version accepts."""
    out = run("schema", "--sql")[1]
    with closing(sqlite3.connect("made.db")) as connection:
        connection.executescript(out)
    assert run("schema", "--db", "made.db") == run("schema", "--db", db)
    assert json.loads(run("schema", "--sql", "--json")[1])
    version = json.loads(run("schema", "--json", "--db", db)[1])["version"]
    assert run("schema", "--sql", "--since", str(version)) == (0, "", "")


def test_config(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`config` shows each setting's value, and whether the environment or the default says so."""
    monkeypatch.setenv("FREETIER_BUDGET_NEW", "3")
    monkeypatch.setenv("FREETIER_BUDGET_PATRON", "5000")
    monkeypatch.setenv("FREETIER_POOL_CREDIT_PCT", "2.5")
    settings: list[dict[str, Any]] = json.loads(run("config", "--json")[1])["settings"]
    found = {each["variable"]: (each["value"], each["source"]) for each in settings}
    assert found["FREETIER_BUDGET_NEW"] == (3, "environment")
    assert found["FREETIER_BUDGET_PATRON"] == (5000, "environment")
    assert found["FREETIER_BUDGET_ELITE"] == (1000, "default")
    assert found["FREETIER_POOL_CREDIT_PCT"] == (250, "environment")
    assert found["FREETIER_PER_REQUEST_SATS"] == (None, "default")
    assert found["FREETIER_DB"] == ("freetier.db", "default")


def test_bad_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bad setting is listed at once, on any command, and nothing is done."""
    monkeypatch.setenv("FREETIER_BUDGET_NEW", "1k")
    monkeypatch.setenv("FREETIER_POOL_SEDE_SATS", "5")
    for argv in (["config"], ["donate", "gift", "5"]):
        code, out, err = run(*argv)
        assert (code, out) == (2, "")
        assert err.startswith("freetier: ConfigError: FREETIER_BUDGET_NEW: ")
        assert "did you mean FREETIER_POOL_SEED_SATS?" in err
    assert not Path("freetier.db").exists()
