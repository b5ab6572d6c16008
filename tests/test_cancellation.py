"""Tasks cancelled at random: nothing of theirs stays behind, and each key then tells the truth."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import freetier
from freetier import AsyncFreeTier, Kind, Request

from .cancelling import (
    KEYED,
    POLICY,
    UNKEYED,
    Operation,
    cancelled,
    check_closed,
    check_the_file,
    check_the_pool,
    check_the_server,
    run,
)
from .figures import Count
from .writers import Door, asyncpg, awaited

AT_ONCE = 12
"""More calls than the library's own pools have connections, so that some wait for one."""


async def storm(ledger: AsyncFreeTier, times: int, chance: random.Random) -> list[Operation]:
    """Cancel so many calls, several at once; by number, those that have a key."""
    asked: list[Operation] = []
    in_time: list[bool] = []

    async def some() -> None:
        while sum(in_time) < times:
            number = len(asked)
            if chance.random() < 0.3:
                call = chance.choice(UNKEYED)(ledger, number)
            else:
                asked.append(operation := chance.choice(KEYED))
                await operation.prepare(ledger, number)
                call = operation.call(ledger, number)
            in_time.append(await cancelled(call, chance))

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return asked


async def check_the_truth(ledger: AsyncFreeTier, asked: list[Operation]) -> None:
    """Each key asked again gets what its entry says, written before or now, once."""
    before = {(entry.kind, entry.key) async for entry in ledger.journal()}
    answers = [await operation.call(ledger, number) for number, operation in enumerate(asked)]
    entries = [entry async for entry in ledger.journal()]
    after = {(entry.kind, entry.key): entry for entry in entries}
    assert len(after) == len(entries)
    assert before <= set(after)
    for number, (operation, answer) in enumerate(zip(asked, answers, strict=True)):
        entry = after[operation.kind, f"{operation.key}-{number}"]
        assert operation.moved(answer) == (entry.balance_change, entry.reserved_change)
    assert (await ledger.verify()).ok


through_each = pytest.mark.parametrize("door", [awaited, asyncpg], ids=["psycopg", "asyncpg"])


@through_each
def test_calls_on_postgres(postgres_dsn: str, door: Door, count_of: Count) -> None:
    """1,000 calls are cancelled: every key tells the truth, every connection comes back, idle."""

    async def main() -> None:
        async with door(postgres_dsn, POLICY) as ledger:
            asked = await storm(ledger, 1000, random.Random(1))
            await check_the_truth(ledger, asked)
            await check_the_server(postgres_dsn, connections=True)
            await check_the_pool(ledger, postgres_dsn)
        await check_the_server(postgres_dsn, connections=False)

    run(main)
    count_of("tasks cancelled", 1000)


@through_each
def test_each_turn_on_postgres(postgres_dsn: str, door: Door) -> None:
    """A call that is cancelled at any turn of the loop leaves no transaction and no lock."""

    async def main() -> None:
        for turn in range(30):
            # Opened anew: the first time, asyncpg tells the server of a statement in two trips.
            async with door(postgres_dsn, POLICY) as ledger:
                call = asyncio.ensure_future(ledger.reserve(Request(f"job-{turn}", "id", "new", 1)))
                for _ in range(turn):
                    await asyncio.sleep(0)
                    time.sleep(0.002)
                call.cancel()
                await asyncio.wait([call])
                await check_the_server(postgres_dsn, connections=True)

    run(main)


def test_calls_on_sqlite(tmp_path: Path, count_of: Count) -> None:
    """1,000 calls are cancelled: every key tells the truth, and the file is not locked."""
    path = tmp_path / "ledger.db"

    async def main() -> None:
        async with awaited(str(path), POLICY) as ledger:
            asked = await storm(ledger, 1000, random.Random(1))
            await check_the_truth(ledger, asked)
            check_the_file(path)

    run(main)
    count_of("tasks cancelled", 1000)


async def enter(opening: AbstractAsyncContextManager[AsyncFreeTier]) -> None:
    async with opening as ledger:
        await ledger.pool_status()


@through_each
def test_opening_on_postgres(postgres_dsn: str, door: Door) -> None:
    """A cancelled opening or closing leaves no connection, and a schema whole or not at all."""
    chance = random.Random(1)

    async def main() -> None:
        openings = [door(postgres_dsn, POLICY, schema=f"of_{n % 20}") for n in range(80)]
        for opening in openings[:40]:
            await cancelled(enter(opening), chance, within_s=0.1)
        for opening in openings[40:]:
            await opening.__aenter__()
            closing = asyncio.ensure_future(opening.__aexit__(None, None, None))
            await asyncio.sleep(0)  # it begins
            await cancelled(closing, chance)
        await check_the_server(postgres_dsn, connections=False)
        for number in range(20):
            async with door(postgres_dsn, POLICY, schema=f"of_{number}") as ledger:
                assert [entry.kind async for entry in ledger.journal()] == [Kind.SEED]

    run(main)


def test_opening_on_sqlite(tmp_path: Path) -> None:
    """A cancelled opening or closing leaves no file open, no thread, a schema whole or none."""
    chance = random.Random(1)
    paths = [tmp_path / f"{number}.db" for number in range(20)]

    async def main() -> None:
        openings = [awaited(str(path), POLICY) for path in paths * 3]
        for opening in openings:
            await cancelled(enter(opening), chance, within_s=0.02)
        for path in paths:
            await check_closed(path)
            async with awaited(str(path), POLICY) as ledger:
                assert [entry.kind async for entry in ledger.journal()] == [Kind.SEED]

    run(main)


def test_closing_while_calls_are_under_way(tmp_path: Path) -> None:
    """A closing that is cancelled lets those calls end, and closes then."""
    path = tmp_path / "ledger.db"

    async def main() -> None:
        ledger = await freetier.open_async(path, POLICY)
        gifts = [asyncio.create_task(ledger.donate(f"gift-{n}", 1)) for n in range(50)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(ledger.close())
        await asyncio.sleep(0)
        closing.cancel()
        assert len(await asyncio.gather(*gifts)) == 50
        with pytest.raises(asyncio.CancelledError):
            await closing
        await check_closed(path)

    run(main)
