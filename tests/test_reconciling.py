"""`reconcile`: a list of what was paid, against the credits, from code and from a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import freetier
from freetier import FreeTier, FreeTierPolicy, InvalidInput, Payment, Reconciliation
from freetier.memory import MemoryRepository
from tests.command import Run, in_folder

PAYMENTS = st.dictionaries(st.integers(0, 9).map("hash-{}".format), st.integers(1, 50))


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder of its own; exit code, standard output, standard error."""
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.fixture
def credited(tmp_path: Path) -> str:
    """A ledger with two credits, and other entries between them."""
    path = str(tmp_path / "ledger.db")
    with freetier.open(path, FreeTierPolicy()) as ledger:
        ledger.credit("one", 70)
        ledger.donate("one", 5)
        ledger.credit("two", 9)
    return path


@given(PAYMENTS, PAYMENTS)
def test_every_difference_is_named(paid: dict[str, int], credits: dict[str, int]) -> None:
    """What was paid and not credited, or with another amount, is named, and nothing else."""
    ledger = FreeTier(FreeTierPolicy(), MemoryRepository())
    ledger.seed()
    for payment_hash, sats in credits.items():
        ledger.credit(payment_hash, sats)
    found = ledger.reconcile(paid.items())
    missing = {key: sats for key, sats in paid.items() if key not in credits}
    differing = {key: sats for key, sats in paid.items() if credits.get(key, sats) != sats}
    assert {(p.payment_hash, p.paid_sats) for p in found.missing} == {*missing.items()}
    assert {(p.payment_hash, p.paid_sats) for p in found.differing} == {*differing.items()}
    assert found.credited == len(paid) - len(missing) - len(differing)
    assert found.unlisted == len(credits.keys() - paid.keys())
    assert found.ok is not bool(missing or differing)


def test_what_is_missing_is_made_up_for(credited: str) -> None:
    """Each missing payment is credited by one call, and then the list and the journal agree."""
    paid = [("one", 70), ("three", 11), ("one", 70)]
    with freetier.open(credited, FreeTierPolicy()) as ledger:
        found = ledger.reconcile(paid)
        assert found == Reconciliation(1, (Payment("three", 11),), (), 1)
        for payment in found.missing:
            ledger.credit(payment.payment_hash, payment.paid_sats)
        assert ledger.reconcile(paid).ok


def test_from_async_code(credited: str) -> None:
    """The async ledger says the same."""

    async def ask() -> Reconciliation:
        async with freetier.open_async(credited, FreeTierPolicy()) as ledger:
            return await ledger.reconcile([("one", 71)])

    assert asyncio.run(ask()) == Reconciliation(0, (), (Payment("one", 71),), 1)


def test_a_long_journal(tmp_path: Path) -> None:
    """Credits are found in every page of the journal."""
    with freetier.open(tmp_path / "ledger.db", FreeTierPolicy()) as ledger:
        paid = [(f"hash-{number}", number + 1) for number in range(1200)]
        for payment_hash, sats in paid:
            ledger.credit(payment_hash, sats)
        assert ledger.reconcile(paid) == Reconciliation(1200, (), (), 0)


@pytest.mark.parametrize(
    ("paid", "argument"),
    [
        ([("", 5)], "payment_hash"),
        ([(5, 5)], "payment_hash"),
        ([("a", 0)], "paid_sats"),
        ([("a", "5")], "paid_sats"),
        ([("a", True)], "paid_sats"),
        ([("a", 5), ("a", 6)], "paid_sats"),
        (["ab"], "paid"),
        ([("a",)], "paid"),
        ([None], "paid"),
        (None, "paid"),
        (5, "paid"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_payments(ledger: FreeTier, paid: object, argument: str) -> None:
    """What is not a list of payments is refused, and the error names what is wrong."""
    with pytest.raises(InvalidInput) as caught:
        ledger.reconcile(paid)  # type: ignore[arg-type]
    assert caught.value.argument == argument


CSV = "payment_hash,paid_sats\none,70\nthree,11\ntwo,8\n"
JSONL = "\n".join(
    json.dumps({"payment_hash": key, "paid_sats": sats})
    for key, sats in (("one", 70), ("three", 11), ("two", 8))
)


@pytest.mark.parametrize(("name", "text"), [("paid.csv", CSV), ("paid.jsonl", JSONL)])
def test_the_command(run: Run, credited: str, name: str, text: str) -> None:
    """The command names what is missing, from CSV and JSON lines, and ends with 1."""
    Path(name).write_text(text, "utf-8")
    code, out, _ = run("reconcile", "--db", credited, name)
    assert code == 1
    assert [line.split() for line in out.splitlines()[2:4]] == [
        ["missing", "three", "11"],
        ["other", "amount", "two", "8"],
    ]
    code, out, _ = run("reconcile", "--db", credited, "--json", name)
    assert code == 1
    assert json.loads(out) == {
        "ok": False,
        "credited": 1,
        "missing": [{"payment_hash": "three", "paid_sats": 11}],
        "differing": [{"payment_hash": "two", "paid_sats": 8}],
        "unlisted": 0,
    }


def test_when_all_is_credited(run: Run, credited: str) -> None:
    """When every payment was credited the command ends with 0; columns may have other names."""
    Path("paid.csv").write_text("id,amount\none,70\n", "utf-8")
    columns = ("--hash-column", "id", "--sats-column", "amount")
    code, out, _ = run("reconcile", "--db", credited, "paid.csv", *columns)
    assert (code, out.splitlines()[0].split()) == (0, ["credited", "1", "payments"])
    assert out.splitlines()[-1].split() == ["not", "in", "the", "list", "1", "credits"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("payment_hash,paid_sats\none,7.5\n", "paid_sats: expected a whole number of sats"),
        ("payment_hash,paid_sats\none,0\n", "paid_sats: expected a whole number of sats from 1"),
        ("payment_hash,paid_sats\n,7\n", "payment_hash: expected text of 1 to 256 characters"),
        ("hash,paid_sats\none,7\n", "header: expected the columns payment_hash, paid_sats"),
        ("one,7\n", "header: expected the columns payment_hash, paid_sats"),
        ("", "header: expected the columns payment_hash, paid_sats"),
        ("\n\n", "header: expected the columns payment_hash, paid_sats"),
    ],
)
def test_a_file_that_is_none(run: Run, credited: str, text: str, named: str) -> None:
    """A row that is no payment is named, and a list without a header; nothing is compared."""
    Path("paid.csv").write_text(text, "utf-8")
    code, out, err = run("reconcile", "--db", credited, "paid.csv")
    assert (code, out) == (2, "")
    assert f"paid.csv, row 1: {named}" in err


def test_it_writes_nothing(credited: str) -> None:
    """A ledger that is reconciled is as it was."""
    with freetier.open(credited, FreeTierPolicy()) as ledger:
        before = list(ledger.journal())
        ledger.reconcile([("three", 3)])
        assert list(ledger.journal()) == before
