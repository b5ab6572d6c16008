"""A checkpoint: a proof that goes on where an earlier one ended says what the whole one says."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

import freetier
from freetier import Checkpoint, FreeTier, FreeTierPolicy, Head, InvalidInput, Request
from freetier.checkpoint import parse_checkpoint
from freetier.memory import MemoryRepository
from freetier.testing import Clock
from tests.command import Run, in_folder

POLICY = FreeTierPolicy(budgets={"new": 0, "trusted": 200}, seed_sats=500)


def told(ledger: FreeTier, clock: Clock) -> Iterator[None]:
    """A ledger's story, one step after the other, in which each kind of entry comes."""
    late = timedelta(minutes=1)
    steps: list[Callable[[], object]] = [
        ledger.seed,
        lambda: ledger.reserve(Request("settled", "ada", "trusted", 90)),
        lambda: ledger.reserve(Request("expired", "bob", "trusted", 40), ttl=late),
        lambda: ledger.reserve(Request("forgotten", "bob", "trusted", 30), ttl=late),
        lambda: ledger.settle("settled", 30),
        lambda: ledger.credit("payment", 71),
        lambda: clock.advance(days=1),
        ledger.sweep,
        lambda: ledger.settle("expired", 35),
        lambda: ledger.reserve(Request("released", "ada", "trusted", 20)),
        lambda: ledger.donate("gift", 5),
        lambda: ledger.release("released"),
        lambda: ledger.record_grant(Request("session", "ada", "trusted", 60)),
        lambda: ledger.adjust("counted twice", -3, note="twice"),
        lambda: ledger.settle("forgotten", 30),
        lambda: ledger.credit("payment-2", 72),
    ]
    for step in steps:
        step()
        yield


def kept(ledger: FreeTier) -> Checkpoint:
    """How far the ledger is proved, as it is read again another day."""
    checkpoint = ledger.verify().checkpoint
    assert checkpoint is not None
    assert parse_checkpoint(str(checkpoint)) == checkpoint
    return checkpoint


def test_a_proof_goes_on_from_anywhere(tmp_path: Path, postgres_dsn: str) -> None:
    """From each entry on, on each store, the report is that of the whole journal."""
    for url in (tmp_path / "ledger.db", postgres_dsn, None):
        clock = Clock()
        ledger = (
            FreeTier(POLICY, MemoryRepository(), clock=clock)
            if url is None
            else freetier.open(url, POLICY, clock=clock)
        )
        with ledger:
            checkpoints = [kept(ledger) for _ in told(ledger, clock)]
            whole = ledger.verify()
            assert whole.ok
            for checkpoint in checkpoints:
                report = ledger.verify(checkpoint=checkpoint)
                assert report.ok, report.problems
                assert (report.trusted, report.against) == (checkpoint.head.seq, None)
                assert (report.head, report.checkpoint) == (whole.head, whole.checkpoint)
                if checkpoint.head != whole.head:
                    assert ledger.verify(checkpoint=checkpoint, head=whole.head).ok


def test_only_what_came_after_is_read(clock: Clock) -> None:
    """Entries before the checkpoint are not read again, but for what later ones go on from."""

    class Watched(MemoryRepository):
        read = 0

        def entries(self, after: int = 0, limit: int = 500) -> list[freetier.Entry]:
            page = super().entries(after, limit)
            self.read += len(page)
            return page

    store = Watched()
    ledger = FreeTier(POLICY, store, clock=clock)
    ledger.seed()
    for number in range(100):
        ledger.donate(f"gift-{number}", 1)
    checkpoint = kept(ledger)
    ledger.donate("another", 1)
    store.read = 0
    assert ledger.verify(checkpoint=checkpoint).ok
    assert store.read == 2  # the one that it was taken at, and the one after it


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM freetier_journal WHERE seq = 3",
        "UPDATE freetier_journal SET balance_sats = 1 WHERE seq = 3",
        "UPDATE freetier_journal SET expires_at_us = expires_at_us + 1 WHERE key = 'job'",
        "DELETE FROM freetier_journal WHERE key = 'job'",
    ],
)
def test_another_journal(tmp_path: Path, change: str) -> None:
    """Where the checkpoint's own entry is not there, or an open grant is another, it is said."""
    with freetier.open(tmp_path / "ledger.db", POLICY) as ledger:
        ledger.reserve(Request("job", "ada", "trusted", 90))
        ledger.donate("gift", 1)
        checkpoint = kept(ledger)
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for (name,) in connection.execute(triggers).fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            assert connection.execute(change).rowcount == 1
        assert 11 in {
            problem.invariant for problem in ledger.verify(checkpoint=checkpoint).problems
        }


def test_a_head_from_before(clock: Clock) -> None:
    """A head of what the checkpoint stands for cannot be looked for: nothing of that is read."""
    ledger = FreeTier(POLICY, MemoryRepository(), clock=clock)
    ledger.seed()
    earlier = ledger.seal()
    ledger.donate("gift", 1)
    checkpoint = kept(ledger)
    for head in (earlier, checkpoint.head):
        with pytest.raises(InvalidInput, match="head: expected a head after entry 2"):
            ledger.verify(head=head, checkpoint=checkpoint)
    ledger.donate("another", 1)
    assert not ledger.verify(head=Head(3, "0" * 64), checkpoint=checkpoint).ok
    assert ledger.verify(head=ledger.seal(), checkpoint=checkpoint).ok


def test_a_checkpoint_of_nothing(clock: Clock) -> None:
    """What stands for no entry has the one digest that there is of nothing."""
    checkpoint = kept(FreeTier(POLICY, MemoryRepository(), clock=clock))
    with pytest.raises(InvalidInput, match="checkpoint"):
        parse_checkpoint(str(checkpoint).replace(checkpoint.head.digest, "f" * 64))


def test_books_of_another_entry(clock: Clock) -> None:
    """A head and books that are not of one instant are no checkpoint."""
    ledger = FreeTier(POLICY, MemoryRepository(), clock=clock)
    ledger.seed()
    earlier = kept(ledger)
    ledger.donate("gift", 1)
    later = kept(ledger)
    for head, books in ((earlier.head, later.books), (later.head, earlier.books)):
        with pytest.raises(InvalidInput, match=f"books: expected the books after entry {head.seq}"):
            Checkpoint(head, books)


def test_from_async_code(tmp_path: Path) -> None:
    """So it is in async code."""

    async def run() -> None:
        async with freetier.open_async(tmp_path / "ledger.db", POLICY) as ledger:
            checkpoint = (await ledger.verify()).checkpoint
            await ledger.donate("gift", 1)
            report = await ledger.verify(checkpoint=checkpoint)
            assert (report.ok, report.entries) == (True, 2)

    asyncio.run(run())


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "1", '{"head": "1:x"}', "[" * 100_000, '{"head": 5}', None, 7, b"{}"]
)
def test_what_is_no_checkpoint(text: str) -> None:
    """Any other text is refused, and so is any other object."""
    with pytest.raises(InvalidInput, match="checkpoint"):
        parse_checkpoint(text)
    ledger = FreeTier(POLICY, MemoryRepository())
    ledger.seed()
    if text is not None:
        with pytest.raises(InvalidInput, match="checkpoint"):
            ledger.verify(checkpoint=text)  # type: ignore[arg-type]


def test_a_figure_that_is_no_number(clock: Clock) -> None:
    """Each figure of a checkpoint is a whole number, or it is none."""
    ledger = FreeTier(POLICY, MemoryRepository(), clock=clock)
    ledger.seed()
    text = str(kept(ledger))
    for wrong in ("500.0", '"500"', "true", "null", "NaN", "1e3"):
        with pytest.raises(InvalidInput, match="checkpoint"):
            parse_checkpoint(text.replace('"balance_sats": 500', f'"balance_sats": {wrong}'))


@pytest.mark.parametrize("wrong", [r'"\ud800"', r'"a\u0000b"', "7", "null"])
def test_a_name_that_is_no_text(wrong: str, clock: Clock) -> None:
    """Each key and name of a checkpoint is text that a database can be asked for, or it is none."""
    ledger = FreeTier(POLICY, MemoryRepository(), clock=clock)
    ledger.seed()
    ledger.reserve(Request("job", "ada", "trusted", 5))
    text = str(kept(ledger))
    for name in ('"job"', '"ada"', '"identity"'):
        assert name in text
        with pytest.raises(InvalidInput, match="checkpoint"):
            parse_checkpoint(text.replace(name, wrong))


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`freetier verify --checkpoint FILE` notes how far it came, unless something is broken."""
    run: Run = in_folder(tmp_path, monkeypatch, capsys)
    run("donate", "gift", "5")
    assert run("verify", "--checkpoint", "proved.json")[0] == 0
    noted = Path("proved.json").read_text()
    run("donate", "gift-2", "5")
    assert run("verify", "--checkpoint", "proved.json")[0] == 0
    assert (
        parse_checkpoint(noted).head.seq + 1
        == parse_checkpoint(Path("proved.json").read_text()).head.seq
    )
    broken = Path("proved.json").read_text().replace('"balance_sats": ', '"balance_sats": 1')
    Path("proved.json").write_text(broken)
    assert run("verify", "--checkpoint", "proved.json")[0] == 1
    assert Path("proved.json").read_text() == broken
    Path("proved.json").write_text("nothing")
    code, _, err = run("verify", "--checkpoint", "proved.json")
    assert (code, "checkpoint" in err) == (2, True)
    code, _, err = run("verify", "--checkpoint", ".")
    assert (code, "cannot be read" in err) == (2, True)
    code, _, err = run("verify", "--checkpoint", "nowhere/proved.json")
    assert (code, "cannot be written" in err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir() if "proved" in path.name) == [
        "proved.json"
    ]
