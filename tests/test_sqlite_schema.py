"""The schema: made once, whole or not at all, and known again when it drifted."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import freetier
from freetier import FreeTier, FreeTierPolicy, InvalidInput, Request, SchemaError, migrations
from freetier.sqlite import SQLiteRepository

from .figures import Count, often
from .processes import at_once

POLICY = FreeTierPolicy()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that nobody made yet."""
    return tmp_path / "ledger.db"


def schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Everything that the database is made of."""
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def change(path: Path, *statements: str) -> None:
    """Do something to the database behind the library's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def serves(path: Path) -> None:
    """The ledger opens, has one seed, and takes a reserve."""
    with freetier.open(path, policy=POLICY) as ledger:
        assert ledger.reserve(Request("job", "ab", "trusted", 120)).absorb_sats == 120
        report = ledger.verify()
        assert (report.ok, report.entries, report.balance_sats) == (True, 2, 10_000)


def boot(path: Path, me: int) -> None:
    """One process of many that open a new ledger."""
    freetier.open(path, policy=FreeTierPolicy(seed_sats=me)).close()


class TestBoot:
    """Whoever comes first makes the schema; the others find it made."""

    @pytest.mark.parametrize("again", often(5, 40))
    def test_eight_processes_boot_at_once(self, path: Path, again: int, count_of: Count) -> None:
        """On an empty database they make one schema and one seed, and none of them fails."""
        at_once(partial(boot, path), processes=8)
        with freetier.open(path, policy=POLICY) as ledger:
            assert ledger.verify().ok
            assert len(list(ledger.journal())) == 1
            assert ledger.pool_status().balance_sats in range(8)
        count_of("boots at once on SQLite", 1)

    def test_opened_again(self, path: Path) -> None:
        """A ledger that is there is neither made nor seeded again."""
        freetier.open(path, policy=POLICY).close()
        serves(path)

    def test_a_statement_that_fails(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A migration that fails half-way leaves nothing of itself, and works when tried again."""
        whole = migrations.statements("sqlite")

        def broken(*_: object, **__: object) -> list[str]:
            return [*whole[: len(whole) // 2], "SELECT * FROM nowhere"]

        with monkeypatch.context() as patched:
            patched.setattr(migrations, "statements", broken)
            with pytest.raises(SchemaError):
                freetier.open(path, policy=POLICY)
        with closing(sqlite3.connect(path)) as connection:
            assert schema(connection) == []
        serves(path)

    @pytest.mark.parametrize("done", [1, 8, 13])
    def test_a_kill_half_way(self, path: Path, done: int) -> None:
        """A process that is killed in the middle of a migration leaves nothing of it."""
        script = """
import sys, time, freetier
from freetier import migrations
whole = migrations.statements("sqlite")
def slowly(*_, **__):
    yield from whole[:int(sys.argv[2])]
    print("half", flush=True)
    time.sleep(60)
migrations.statements = slowly
freetier.open(sys.argv[1], policy=freetier.FreeTierPolicy())
"""
        command = [sys.executable, "-c", script, str(path), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            process.kill()
            assert process.wait() == -signal.SIGKILL
        with closing(sqlite3.connect(path)) as connection:
            assert schema(connection) == []
        serves(path)


class TestVersion:
    """The schema is the one that this code is written for, or it is not used."""

    def test_newer_than_the_code(self, path: Path) -> None:
        """A newer schema is a SchemaError that names both versions, and is left as it was."""
        freetier.open(path, policy=POLICY).close()
        newer = migrations.latest("sqlite") + 98
        change(path, f"UPDATE freetier_schema SET version = {newer}")
        before = path.read_bytes()
        with pytest.raises(SchemaError, match=rf"{newer}.*{newer - 98}"):
            freetier.open(path, policy=POLICY)
        assert path.read_bytes() == before

    def test_a_hosts_connection_without_a_schema(self) -> None:
        """On a host's connection nobody migrates unasked: no schema is a SchemaError."""
        with closing(sqlite3.connect(":memory:")) as connection:
            with pytest.raises(SchemaError, match="0"):
                SQLiteRepository(connection)
            assert schema(connection) == []

    def test_no_version_at_all(self, path: Path) -> None:
        """A schema that does not know its version is a SchemaError."""
        freetier.open(path, policy=POLICY).close()
        change(path, "DELETE FROM freetier_schema")
        with pytest.raises(SchemaError, match="freetier_schema"):
            freetier.open(path, policy=POLICY)


ANY_INSERT = "AFTER INSERT ON freetier_journal BEGIN SELECT 1; END"


class TestDrift:
    """What guards the journal is all there, as it was made, and nothing else hangs on it."""

    @pytest.mark.parametrize(
        ("named", "statements"),
        [
            ("freetier_journal_guard", ["DROP TRIGGER freetier_journal_guard"]),
            (
                "freetier_journal_post",
                [
                    "DROP TRIGGER freetier_journal_post",
                    f"CREATE TRIGGER freetier_journal_post {ANY_INSERT}",
                ],
            ),
            ("audit_log", [f"CREATE TRIGGER audit_log {ANY_INSERT}"]),
            ("freetier_extra", [f"CREATE TRIGGER freetier_extra {ANY_INSERT}"]),
            ("freetier_journal_once", ["DROP INDEX freetier_journal_once"]),
            ("freetier_gate", ["DROP TABLE freetier_gate"]),
            ("freetier_pool", ["ALTER TABLE freetier_pool ADD COLUMN owner TEXT"]),
            ("freetier_usage", ["ALTER TABLE freetier_usage RENAME TO freetier_used"]),
        ],
    )
    def test_a_drifted_schema_is_named(self, path: Path, named: str, statements: list[str]) -> None:
        """A trigger, table or index that is gone, changed or new is a SchemaError that names it."""
        freetier.open(path, policy=POLICY).close()
        change(path, *statements)
        with pytest.raises(SchemaError, match=named):
            freetier.open(path, policy=POLICY)
        with closing(sqlite3.connect(path)) as host, pytest.raises(SchemaError, match=named):
            SQLiteRepository(host)

    def test_an_index_more_breaks_nothing(self, path: Path) -> None:
        """An index that the operator added is fine."""
        freetier.open(path, policy=POLICY).close()
        change(path, "CREATE INDEX by_identity ON freetier_journal (identity)")
        serves(path)

    def test_a_unique_index_more_refuses_entries(self, path: Path) -> None:
        """A unique index that somebody added can refuse a right entry: it is drift."""
        freetier.open(path, policy=POLICY).close()
        change(path, "CREATE UNIQUE INDEX one_a_day ON freetier_journal (identity, day)")
        with pytest.raises(SchemaError, match="one_a_day"):
            freetier.open(path, policy=POLICY)


class TestStatements:
    """The same migration, for a host's own tool."""

    def test_each_is_one_statement(self) -> None:
        """A host's tool gets single statements, that neither begin nor end a transaction."""
        for statement in migrations.statements("sqlite"):
            assert sqlite3.complete_statement(f"{statement};")
            assert statement.split()[0] in ("CREATE", "INSERT") or statement.startswith("--")

    def test_one_by_one_they_make_the_same_schema(self, path: Path) -> None:
        """Run by a host, the statements make what the library makes."""
        freetier.open(path, policy=POLICY).close()
        with closing(sqlite3.connect(path)) as own, closing(sqlite3.connect(":memory:")) as host:
            for statement in migrations.statements("sqlite"):
                host.execute(statement)
            assert schema(host) == schema(own)
            assert FreeTier(POLICY, SQLiteRepository(host)).seed().balance_change == 10_000

    def test_from_the_latest_there_is_nothing_to_do(self) -> None:
        """From the latest version on there are no statements."""
        assert migrations.statements("sqlite", since=migrations.latest("sqlite")) == []

    @pytest.mark.parametrize("since", [-1, 99, True, "1", None, 1.0])
    def test_a_version_that_is_none(self, since: Any) -> None:
        """A version that there is not is refused by name, and so is an unknown dialect."""
        with pytest.raises(InvalidInput, match="since"):
            migrations.statements("sqlite", since=since)
        with pytest.raises(InvalidInput, match="dialect"):
            migrations.statements("oracle")


class TestMigrate:
    """`migrate` on a host's own connection."""

    @pytest.fixture(params=[None, ""])
    def host(self, path: Path, request: pytest.FixtureRequest) -> Any:
        with closing(sqlite3.connect(path, isolation_level=request.param)) as connection:
            yield connection

    @pytest.mark.parametrize("kept", [True, False])
    def test_it_joins_the_hosts_transaction(self, host: sqlite3.Connection, kept: bool) -> None:
        """Inside a transaction the schema is the host's to keep or to undo."""
        host.execute("BEGIN")
        assert migrations.migrate(host) == migrations.latest("sqlite")
        assert host.in_transaction
        end: Callable[[], None] = host.commit if kept else host.rollback
        end()
        assert bool(schema(host)) == kept

    def test_alone_it_is_atomic(self, host: sqlite3.Connection, path: Path) -> None:
        """Without a transaction it is one by itself; again, it changes nothing."""
        migrations.migrate(host)
        assert not host.in_transaction
        before = schema(host)
        assert migrations.migrate(host) == migrations.latest("sqlite")
        assert schema(host) == before
        serves(path)

    def test_drift_undoes_nothing_of_the_hosts(self, host: sqlite3.Connection) -> None:
        """A migration that is refused leaves the host's transaction and its rows alone."""
        migrations.migrate(host)
        host.execute("BEGIN")
        host.execute("CREATE TABLE job (id TEXT)")
        host.execute("UPDATE freetier_schema SET version = 99")
        with pytest.raises(SchemaError):
            migrations.migrate(host)
        host.commit()
        assert host.execute("SELECT count(*) FROM job").fetchone() == (0,)

    def test_a_statement_that_fails_is_undone(
        self, host: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half a migration goes; what the host did before it, in its transaction, stays."""
        half = [*migrations.statements("sqlite")[:5], "SELECT * FROM nowhere"]
        monkeypatch.setattr(migrations, "statements", lambda *_, **__: half)
        host.execute("BEGIN")
        host.execute("CREATE TABLE job (id TEXT)")
        with pytest.raises(SchemaError):
            migrations.migrate(host)
        host.commit()
        assert [name for name, _ in schema(host)] == ["job"]

    @pytest.mark.parametrize("bad", [None, "ledger.db", object()])
    def test_what_is_no_connection(self, bad: Any) -> None:
        """Anything but an `sqlite3.Connection` is refused by name."""
        with pytest.raises(InvalidInput) as caught:
            migrations.migrate(bad)
        assert caught.value.argument == "connection"
