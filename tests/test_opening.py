"""Opening a ledger: what is meant for another place is refused, and no password is ever shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import freetier
from freetier import (
    AsyncFreeTier,
    FreeTier,
    FreeTierError,
    FreeTierPolicy,
    InvalidInput,
    migrations,
)
from freetier.errors import shown
from freetier.memory import MemoryRepository
from freetier.sqlite import AsyncSQLiteRepository
from tests.command import in_folder

POLICY = FreeTierPolicy()
SECRET = "hunter2"
WRONG = [
    f"postgres:/ada:{SECRET}@db/x",
    f"postgresql:/ada:{SECRET}@db/x",
    f"postgressql://ada:{SECRET}@db/x",
    f"POSTGRESQL://ada:{SECRET}@db/x",
    f"postgresql://ada:{SECRET}@db/x\0",
    f"postgresql://ada:{SECRET}@@127.0.0.1:1/x",
    f"sqlite:///ada:{SECRET}@db?x",
    f"host=db user=ada password={SECRET} dbname=x",
    f"host=db user=ada PASSWORD = 'a {SECRET}' dbname=x",
    f"host=db dbname=x password='a\\' {SECRET}",
    f"postgresql://db:1/x?password={SECRET}&sslmode=wrong",
]


@pytest.mark.parametrize("url", WRONG)
def test_no_password_is_shown(url: str) -> None:
    """A URL that cannot be opened is an error of ours, without the password."""
    with pytest.raises(FreeTierError) as caught:
        freetier.open(url, POLICY)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [WRONG[2], WRONG[2].encode(), Path(WRONG[2])])
def test_no_value_is_shown_with_a_password(value: object) -> None:
    """Whatever an error message shows of a value, it is not a password."""
    assert SECRET not in shown(value)


@pytest.mark.parametrize("command", ["status", "verify", "schema", "sweep", "config"])
def test_the_command_shows_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    """Nor does the command, whatever it says."""
    run = in_folder(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("FREETIER_DB", f"postgressql://ada:{SECRET}@db/x")
    _, out, err = run(command)
    assert out + err
    assert SECRET not in out + err


def test_words_of_libpq_name_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is meant for Postgres never becomes the name of an SQLite file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="url"):
        freetier.open("host=127.0.0.1 password=secret dbname=x", POLICY)
    assert list(tmp_path.iterdir()) == []


def test_a_door_takes_its_own_kind(tmp_path: Path) -> None:
    """A blocking door refuses an async repository, and the other way round."""
    with pytest.raises(InvalidInput, match="repository"):
        FreeTier(POLICY, AsyncSQLiteRepository(tmp_path / "a.db"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="repository"):
        AsyncFreeTier(POLICY, MemoryRepository())  # type: ignore[arg-type]


def test_entering_opens(tmp_path: Path) -> None:
    """An async ledger over a repository that is not open yet opens it when it is entered."""

    async def main() -> None:
        async with AsyncFreeTier(POLICY, AsyncSQLiteRepository(tmp_path / "a.db")) as ledger:
            assert (await ledger.seed()).balance_sats == 10_000

    asyncio.run(main())


@pytest.mark.parametrize("dialect", ["mysql", [], None])
def test_a_dialect_is_checked(dialect: str) -> None:
    """A dialect that is none is named."""
    with pytest.raises(InvalidInput, match="dialect"):
        migrations.statements(dialect)
