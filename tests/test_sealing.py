"""The seal: a head that was kept shows whether the journal up to it is still the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, fields_dict

import freetier
from freetier import (
    Entry,
    FreeTier,
    FreeTierPolicy,
    Head,
    IntegrityError,
    InvalidInput,
    Kind,
    Request,
)
from freetier.memory import MemoryRepository
from freetier.sealing import START, canonical, linked, parse_head
from freetier.testing import Clock
from tests.command import Run, in_folder
from tests.test_docs import one_of_each

NOW = datetime(2030, 1, 1, tzinfo=UTC)
POLICY = FreeTierPolicy(budgets={"new": 0, "trusted": 200}, seed_sats=500)


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder of its own; exit code, standard output, standard error."""
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.fixture
def small(tmp_path: Path, clock: Clock) -> Iterator[FreeTier]:
    """A ledger with five entries."""
    with freetier.open(tmp_path / "small.db", POLICY, clock=clock) as ledger:
        used(ledger)
        yield ledger


def used(ledger: FreeTier, note: str = "from the spring") -> None:
    ledger.reserve(Request("job", "ada", "trusted", 90))
    ledger.settle("job", 30)
    ledger.credit("payment", 70)
    ledger.donate("gift", 5, note=note)


def test_the_chain_is_what_the_docs_say(small: FreeTier) -> None:
    """The head is SHA-256 over each entry in turn, and can be worked out by anybody."""
    digest = bytes.fromhex(START.digest)
    for entry in small.journal():
        digest = linked(digest, entry)
    assert small.seal() == Head(5, digest.hex())
    assert parse_head(str(small.seal())) == small.seal()


def test_every_store_has_the_same_head(
    small: FreeTier, clock: Clock, tmp_path: Path, postgres_dsn: str
) -> None:
    """The same entries have the same head, whichever database they are in."""
    memory = FreeTier(POLICY, MemoryRepository(), clock=clock)
    memory.seed()
    used(memory)
    assert memory.seal() == small.seal()
    with freetier.open(postgres_dsn, POLICY, clock=clock) as postgres:
        used(postgres)
        assert postgres.seal() == small.seal()

    async def from_async_code() -> Head:
        async with freetier.open_async(tmp_path / "small.db", POLICY, clock=clock) as ledger:
            return await ledger.seal()

    assert asyncio.run(from_async_code()) == small.seal()


def test_every_figure_counts(tmp_path: Path) -> None:
    """A change of any figure of any entry changes what is hashed; nothing is left out."""
    entries = one_of_each(tmp_path / "all.db")
    for entry in entries:
        figures = json.loads(canonical(entry))
        assert len(figures) == len(fields_dict(Entry))
        for name in fields_dict(Entry):
            other = evolve(entry, **{name: changed(name, getattr(entry, name))})
            assert canonical(other) != canonical(entry), name


def changed(name: str, value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case None:
            some = {"day": NOW.date(), "rooms": {"pool": 1}, "resets_at": NOW, "expires_at": NOW}
            return some.get(name, 7)
        case int():
            return value + 1
        case Kind():
            return Kind.LATE if value is Kind.SEED else Kind.SEED
        case str():
            return f"{value}!"
        case dict():
            return {**value, "budget": 1}
        case _:
            return value + timedelta(days=1)  # a time, or a day


def test_a_kept_head_is_a_prefix(small: FreeTier) -> None:
    """A head that was kept still holds when the journal has grown; and one leads to the next."""
    kept = small.seal()
    assert small.verify(head=START).ok
    assert not small.verify(head=Head(0, "f" * 64)).ok
    small.donate("another", 9)
    report = small.verify(head=kept)
    assert (report.ok, report.against, report.head) == (True, kept, small.seal())
    assert small.seal(since=kept) == small.seal()
    assert small.seal(since=small.seal()) == small.seal()


def test_another_journal_that_adds_up(small: FreeTier, clock: Clock) -> None:
    """A journal that was made anew, and adds up, is found by a head that was kept, not else."""
    forged = FreeTier(POLICY, MemoryRepository(), clock=clock)
    forged.seed()
    used(forged, note="from the autumn")
    assert forged.verify().ok
    report = forged.verify(head=small.seal())
    (problem,) = report.problems
    assert (problem.invariant, problem.seq) == (11, 5)


def test_a_journal_that_was_cut(small: FreeTier, clock: Clock) -> None:
    """A journal that ends before the head that was kept is found."""
    short = FreeTier(POLICY, MemoryRepository(), clock=clock)
    short.seed()
    (problem,) = short.verify(head=small.seal()).problems
    assert (problem.invariant, problem.seq) == (11, None)
    assert problem.detail == "there is no entry 5, the head's"
    with pytest.raises(IntegrityError, match="has no entry 5"):
        short.seal(since=small.seal())


@pytest.mark.parametrize(
    "text", ["", "5", "5:", "x:" + "0" * 64, "5:" + "0" * 63, "-1:" + "0" * 64, "5:" + "A" * 64]
)
def test_what_is_no_head(small: FreeTier, text: str) -> None:
    """What is no head is refused by name, before anything is read."""
    with pytest.raises(InvalidInput) as caught:
        parse_head(text)
    assert caught.value.argument == "head"
    for ask in (lambda: small.verify(head=text), lambda: small.seal(since=text)):  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            ask()


@pytest.mark.parametrize("seq", [-1, 2**63])
def test_a_seq_that_none_can_be(seq: int) -> None:
    """A head of no entry that could be is refused, and the bound is told."""
    assert Head(2**63 - 1, "0" * 64).seq == 2**63 - 1
    with pytest.raises(InvalidInput, match="seq: expected a seq from 0 to 9223372036854775807,"):
        Head(seq, "0" * 64)


def test_the_commands(run: Run, small: FreeTier) -> None:
    """`freetier seal` prints a head, and `freetier verify --head` holds the journal against it."""
    code, out, _ = run("seal", "--db", "small.db")
    kept = out.strip()
    assert (code, kept) == (0, str(small.seal()))
    small.donate("another", 9)
    assert run("seal", "--db", "small.db", "--since", kept)[1].strip() == str(small.seal())
    code, out, _ = run("verify", "--db", "small.db", "--head", kept)
    assert code == 0
    assert "11  ok      nothing in the journal was changed" in out
    assert out.splitlines()[-1] == "verified: all 11 invariants hold over 6 entries"
    assert "11  ok" not in run("verify", "--db", "small.db")[1]
    code, out, _ = run("verify", "--db", "small.db", "--head", f"5:{'0' * 64}")
    assert code == 1
    assert "11  broken  nothing in the journal was changed" in out
    assert "entry 5: up to here it is not the journal that was sealed" in out
    code, _, err = run("verify", "--db", "small.db", "--head", "5:x")
    assert (code, "head: expected SEQ:DIGEST" in err) == (2, True)
    assert json.loads(run("seal", "--db", "small.db", "--json")[1]) == {"head": str(small.seal())}
