"""A ledger on SQLite whose process is killed at each of its writes, or whose machine is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

import freetier
from freetier import FreeTier, FreeTierPolicy, Kind, Request
from freetier.sqlite import SQLiteRepository

from .figures import Count
from .processes import at_once
from .system_calls import Killed, cut_power, killed

POLICY = FreeTierPolicy(budgets={"new": 0, "elite": 10**6}, seed_sats=10**6)
ROUNDS = 2


def operations(ledger: FreeTier, number: int) -> list[tuple[Kind, str, Callable[[], object]]]:
    """Each kind of entry once: what it is, its key, and the call."""
    request = Request(f"job-{number}", "ada", "elite", 30)
    other = Request(f"off-{number}", "ada", "elite", 20)
    chat = Request(f"chat-{number}", "ada", "elite", 10)
    return [
        (Kind.RESERVE, request.request_id, lambda: ledger.reserve(request)),
        (Kind.SETTLE, request.request_id, lambda: ledger.settle(request.request_id, 20)),
        (Kind.RESERVE, other.request_id, lambda: ledger.reserve(other)),
        (Kind.RELEASE, other.request_id, lambda: ledger.release(other.request_id)),
        (Kind.GRANT, chat.request_id, lambda: ledger.record_grant(chat)),
        (Kind.CREDIT, f"paid-{number}", lambda: ledger.credit(f"paid-{number}", 77)),
        (Kind.DONATION, f"gift-{number}", lambda: ledger.donate(f"gift-{number}", 5)),
    ]


def serve(path: Path, durable: bool, acknowledge: Callable[[bytes], None]) -> None:
    """Do it all, and say of each what it was, once it is done."""
    with SQLiteRepository(path) as repository:
        if not durable:
            repository._connections.patiently(
                lambda connection: connection.execute("PRAGMA synchronous = NORMAL")
            )
        ledger = FreeTier(POLICY, repository)
        for number in range(ROUNDS):
            for kind, key, call in operations(ledger, number):
                call()
                acknowledge(f"{kind} {key}\n".encode())


def each_point(
    fresh: Path, cut: bool, durable: bool, me: int, stride: int = 1
) -> tuple[int, list[str]]:
    """End it at every second point; how many there were, and what was lost or not as it was.

    With a stride, at so many times fewer.
    """
    folder = fresh.parent / f"at-{me}"
    lost: list[str] = []
    for point in count(me * stride, 2 * stride):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(fresh, folder)
        path = folder / fresh.name
        end = killed(partial(serve, path, durable), folder, point)
        if end.at is None:
            return point // (2 * stride), lost
        if cut:
            cut_power(folder, end)
        lost += [f"{end.at}: {what}" for what in wrong(path, end)]
    raise AssertionError


def wrong(path: Path, end: Killed) -> list[str]:
    """What was acknowledged and is gone; what is there beyond the one that was being written."""
    acknowledged = end.said.decode().splitlines()
    with freetier.open(path, POLICY) as ledger:
        report = ledger.verify()
        found = [f"{entry.kind} {entry.key}" for entry in ledger.journal(after=1)]
        gone = [what for what in acknowledged if what not in found]
        beyond = [what for what in found if what not in acknowledged]
        for number in range(ROUNDS):
            for _, _, call in operations(ledger, number):
                call()
        whole = [f"{entry.kind} {entry.key}" for entry in ledger.journal(after=1)]
        again = ledger.verify()
    return [
        *gone,
        *beyond[1:],
        *(str(problem) for problem in (*report.problems, *again.problems)),
        *([] if len(whole) == len(set(whole)) == 7 * ROUNDS else [f"again: {len(whole)} entries"]),
    ]


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A new ledger."""
    path = tmp_path / "fresh.db"
    freetier.open(path, POLICY).close()
    return path


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(False, id="process"),
        pytest.param(True, id="power", marks=pytest.mark.slow),
    ],
)
def test_nothing_acknowledged_is_lost(fresh: Path, cut: bool, count_of: Count) -> None:
    """Killed before and after every write, entries are whole or absent, and the same keys go on.

    So they are when the power fails: then what was written since a file's last sync is gone.
    """
    parts = at_once(partial(each_point, fresh, cut, True), 2)
    assert [what for _, lost in parts for what in lost] == []
    count_of("power cuts" if cut else "SIGKILL points", sum(points for points, _ in parts))


def test_a_power_cut_would_show(fresh: Path) -> None:
    """With `synchronous = NORMAL`, a power cut does lose what was acknowledged, and is seen to."""
    parts = at_once(partial(each_point, fresh, True, False, stride=5), 2)
    assert [what for _, lost in parts for what in lost]
