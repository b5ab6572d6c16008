"""SQLite as a store: a file of the library's own, and a host's own connection."""

from __future__ import annotations

import ctypes
import os
import shlex
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import freetier
from freetier import (
    ConfigError,
    FreeTier,
    FreeTierPolicy,
    InvalidInput,
    Kind,
    Request,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    _sql,
)
from freetier._sql import Query
from freetier.migrations import migrate
from freetier.sqlite import SQLiteRepository

JOB = Request("job", "ab", "trusted", 120)
POLICY = FreeTierPolicy()
NOBODY = 65534
SMALL_WORLD = ["unshare", "--user", "--map-root-user", "--mount"]
"""Where a command is root of nothing but what it mounts, which is gone with it."""
FILL = """
import itertools, pathlib, sys, freetier
from freetier import FreeTierPolicy, StoreFull

disk = pathlib.Path(sys.argv[1])
ballast = disk / "ballast"
ballast.write_bytes(bytes(300_000))
with freetier.open(disk / "ledger.db", FreeTierPolicy()) as ledger:
    def give(number):
        return ledger.donate(f"gift-{number}", 1, note="n" * 256).balance_change
    for number in itertools.count():
        try:
            given = give(number)
        except StoreFull:
            break
    try:
        give(number)
    except StoreFull:
        assert ledger.verify().entries == 1 + number
        ballast.unlink()
        assert give(number) == given == 1
        assert ledger.verify().entries == 2 + number and ledger.verify().ok
    else:
        raise AssertionError("there was room again")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger's file, migrated and seeded."""
    with freetier.open(tmp_path / "ledger.db", policy=POLICY):
        return tmp_path / "ledger.db"


def pragma(repository: SQLiteRepository, words: str) -> Any:
    """What `PRAGMA words` says on the connection that this thread uses."""
    return repository.run(Query(f"PRAGMA {words}", {}, lambda rows: rows[0][0] if rows else None))


@contextmanager
def rights(folder: Path, mode: int, mode_of_files: int) -> Iterator[None]:
    """Inside, this thread, be it root's, has these rights to a folder and to what is in it."""
    files = list(folder.iterdir())
    for file in files:
        file.chmod(mode_of_files)
    folder.chmod(mode)
    as_user = ctypes.CDLL(None).setfsuid
    as_user(NOBODY)
    try:
        yield
    finally:
        as_user(os.geteuid())
        folder.chmod(0o755)
        for file in files:
            file.chmod(0o644)


class TestOwnFile:
    """A path: the library opens connections, durable and patient, and closes them."""

    def test_what_was_acknowledged_is_on_the_disk(self, path: Path) -> None:
        """Every connection writes ahead and syncs on each commit."""
        with SQLiteRepository(path) as repository:
            assert pragma(repository, "journal_mode") == "wal"
            assert pragma(repository, "synchronous") == 2

    def test_each_thread_has_a_connection(self, path: Path) -> None:
        """What a thread sets on its connection, another thread's connection does not have."""
        with SQLiteRepository(path) as repository:
            pragma(repository, "cache_size = 123")
            sizes: list[int] = []
            thread = threading.Thread(target=lambda: sizes.append(pragma(repository, "cache_size")))
            thread.start()
            thread.join()
            assert pragma(repository, "cache_size") == 123
            assert sizes != [123]

    def test_locked_is_unavailable_within_the_deadline(self, path: Path) -> None:
        """While somebody holds the file, a write gives up at its deadline; then it works again."""
        with closing(sqlite3.connect(path)) as other, SQLiteRepository(path, timeout_s=0.2) as own:
            ledger = FreeTier(POLICY, own)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                ledger.reserve(JOB)
            other.rollback()
            assert ledger.reserve(JOB).absorb_sats == 120

    def test_a_reader_does_not_wait(self, path: Path) -> None:
        """A decision, a status and the journal need no lock."""
        with closing(sqlite3.connect(path)) as other, SQLiteRepository(path, timeout_s=0) as own:
            other.execute("BEGIN IMMEDIATE")
            ledger = FreeTier(POLICY, own)
            assert ledger.decide(JOB).absorb_sats == 120
            assert ledger.pool_status().balance_sats == 10_000
            assert ledger.verify().ok

    def test_a_writer_waits_its_turn(self, path: Path) -> None:
        """A write that finds the file held gets through once it is let go, before its deadline."""
        with (
            closing(sqlite3.connect(path, check_same_thread=False)) as other,
            SQLiteRepository(path, timeout_s=60) as own,
        ):
            other.execute("BEGIN IMMEDIATE")
            letting_go = threading.Timer(0.2, other.rollback)
            letting_go.start()
            assert FreeTier(POLICY, own).reserve(JOB).absorb_sats == 120
            letting_go.join()

    def test_a_key_is_looked_up(self, path: Path) -> None:
        """An entry is found by its key, in a journal of any length, also before any ANALYZE."""
        with SQLiteRepository(path) as own:
            find = _sql.find(Kind.CREDIT, "invoice")
            explained = f"EXPLAIN QUERY PLAN {find.text}"
            plan = own.run(Query(explained, find.params, lambda rows: [row[3] for row in rows]))
        assert "USING INDEX freetier_journal_once (pool=? AND key=? AND once>?)" in plan[0]

    def test_a_full_disk(self, tmp_path: Path, path: Path) -> None:
        """A disk without room is StoreFull; nothing is half written; with room it goes on.

        It is a file system of a megabyte; where a test may mount none, a file that may not grow.
        """
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
        if subprocess.run([*SMALL_WORLD, *mount], check=False, capture_output=True).returncode:
            self.test_a_file_that_cannot_grow(path)
            return
        fill = [sys.executable, "-W", "error", "-c", FILL, str(disk)]
        both = ["sh", "-c", f'{shlex.join(mount)} && exec "$@"', "sh", *fill]
        subprocess.run([*SMALL_WORLD, *both], check=True, timeout=60)

    def test_a_file_that_cannot_grow(self, path: Path) -> None:
        """A file that cannot grow is StoreFull; nothing is half written; with room it goes on."""
        with SQLiteRepository(path) as own:
            ledger = FreeTier(POLICY, own)
            pragma(own, f"max_page_count = {pragma(own, 'page_count')}")
            with pytest.raises(StoreFull):
                deque((ledger.donate(f"gift-{n}", 1, note="n" * 256) for n in range(1000)), 0)
            assert ledger.verify().ok
            pragma(own, "max_page_count = 1000000")
            assert ledger.donate("gift", 1).balance_change == 1

    def test_a_closed_ledger(self, path: Path) -> None:
        """Closed, a ledger refuses every call, in any thread; closing again is fine."""
        ledger = freetier.open(path, policy=POLICY)
        ledger.close()
        ledger.close()
        for ask in (ledger.reserve, ledger.decide):
            with pytest.raises(ConfigError, match="closed"):
                ask(JOB)

    @pytest.mark.parametrize("bad", ["", ":memory:", "a\0b", 5, None, b"ledger.db"])
    def test_what_is_no_file(self, bad: Any) -> None:
        """What cannot name a file is refused; in memory, each connection would have its own."""
        with pytest.raises(InvalidInput) as caught:
            SQLiteRepository(bad)
        assert caught.value.argument == "database"

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        """A folder that is not there is a ConfigError, and is not made."""
        with pytest.raises(ConfigError, match="folder"):
            SQLiteRepository(tmp_path / "nowhere" / "ledger.db")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("place", ["letter.txt/ledger.db", "l" * 300])
    def test_where_no_file_can_be(self, tmp_path: Path, place: str) -> None:
        """A path that goes through a file, or is too long for one, is a ConfigError."""
        (tmp_path / "letter.txt").touch(0o777)
        with pytest.raises(ConfigError):
            SQLiteRepository(tmp_path / place)

    def test_not_a_database(self, tmp_path: Path) -> None:
        """A file of something else is a ConfigError, and is left as it was."""
        letter = tmp_path / "letter.txt"
        letter.write_text("Dear pool, " * 100)
        with pytest.raises(ConfigError):
            SQLiteRepository(letter)
        assert letter.read_text() == "Dear pool, " * 100

    def test_a_folder_is_no_database(self, tmp_path: Path) -> None:
        """A folder in the file's place is a ConfigError: no retry helps."""
        with pytest.raises(ConfigError):
            SQLiteRepository(tmp_path)

    @pytest.mark.parametrize("timeout_s", [-1, float("nan"), float("inf"), "5", None, True])
    def test_a_timeout_is_a_number_of_seconds(self, path: Path, timeout_s: Any) -> None:
        """A deadline that never comes, or that is no number, is refused by name."""
        with pytest.raises(InvalidInput) as caught, SQLiteRepository(path, timeout_s=timeout_s):
            pass
        assert caught.value.argument == "timeout_s"

    def test_beside_the_hosts_own_tables(self, tmp_path: Path) -> None:
        """A database that has other tables gets ours as well, and keeps its own."""
        with closing(sqlite3.connect(tmp_path / "host.db")) as host:
            host.executescript("CREATE TABLE job (id TEXT); INSERT INTO job VALUES ('a');")
            with freetier.open(tmp_path / "host.db", policy=POLICY) as ledger:
                assert ledger.reserve(JOB).absorb_sats == 120
            assert host.execute("SELECT id FROM job").fetchall() == [("a",)]

    def test_a_fork_is_refused(self, path: Path) -> None:
        """A ledger that was opened before a fork refuses the child, and still serves the parent."""
        script = """
import os, sys, freetier
from freetier import ConfigError, FreeTierPolicy, Request
with freetier.open(sys.argv[1], policy=FreeTierPolicy()) as ledger:
    child = os.fork()
    try:
        ledger.reserve(Request(f"job-{child > 0}", "ab", "trusted", 10))
        result = 0
    except ConfigError as error:
        result = 7 if "fork" in str(error) else 1
    if child == 0:
        ledger.close()
        os._exit(result)
    assert result == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert ledger.release("job-True").absorb_sats == 10
    assert ledger.verify().entries == 3
"""
        subprocess.run([sys.executable, "-W", "error", "-c", script, path], check=True, timeout=60)

    def test_a_file_that_may_only_be_read(self, path: Path) -> None:
        """A ledger opened read-only decides, and says StoreReadOnly to a write."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            ledger = FreeTier(POLICY, SQLiteRepository(connection))
            assert ledger.decide(JOB).absorb_sats == 120
            with pytest.raises(StoreReadOnly):
                ledger.reserve(JOB)

    def test_a_folder_that_may_only_be_read(self) -> None:
        """Who may not write decides, and meets StoreReadOnly; with the right to, it goes on."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "ledger.db")
            writer = freetier.open(path, POLICY)
            reading = (path.parent, 0o555, 0o444)
            with writer, rights(*reading), freetier.open(path, POLICY) as ledger:
                assert ledger.decide(JOB).absorb_sats == 120
                with pytest.raises(StoreReadOnly):
                    ledger.reserve(JOB)
            with rights(*reading), pytest.raises(StoreReadOnly):
                freetier.open(path, POLICY)  # to read it, SQLite makes files beside it
            with freetier.open(path, POLICY) as ledger:
                assert ledger.reserve(JOB).absorb_sats == 120
                assert ledger.verify().ok

    @pytest.mark.parametrize(("mode", "mode_of_files"), [(0o755, 0o000), (0o444, 0o644)])
    def test_what_may_not_be_read(self, mode: int, mode_of_files: int) -> None:
        """A file, or a folder, that its user may not look into is a ConfigError: no retry helps."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "ledger.db")
            freetier.open(path, POLICY).close()
            with (
                rights(path.parent, mode, mode_of_files),
                pytest.raises(ConfigError, match="this user may not"),
            ):
                freetier.open(path, POLICY)


class TestHostsConnection:
    """A connection: what is written belongs to the host's transaction, and so does the rest."""

    @pytest.fixture(params=[None, "", "IMMEDIATE"])
    def host(self, path: Path, request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
        """A host's connection, with a table of its own, in each of Python's ways to begin."""
        with closing(sqlite3.connect(path, isolation_level=request.param, timeout=0)) as host:
            host.execute("CREATE TABLE job (id TEXT)")
            yield host

    @pytest.fixture
    def ledger(self, host: sqlite3.Connection) -> FreeTier:
        return FreeTier(POLICY, SQLiteRepository(host))

    @pytest.mark.parametrize("kept", [True, False])
    def test_the_hosts_transaction_decides(
        self, host: sqlite3.Connection, ledger: FreeTier, path: Path, kept: bool
    ) -> None:
        """Commit keeps what was written with the host's rows; rollback leaves neither."""
        host.execute("BEGIN")
        host.execute("INSERT INTO job VALUES ('job')")
        ledger.reserve(JOB)
        ledger.settle("job", 100)
        assert host.in_transaction
        with freetier.open(path, policy=POLICY) as other:
            assert other.verify().entries == 1
            host.commit() if kept else host.rollback()
            assert other.verify().entries == (3 if kept else 1)
            assert other.pool_status().balance_sats == (9_900 if kept else 10_000)
        assert len(host.execute("SELECT * FROM job").fetchall()) == kept

    def test_a_refused_entry_aborts_nothing(
        self, host: sqlite3.Connection, ledger: FreeTier
    ) -> None:
        """An entry that is refused, and one that is bad, leave the host's transaction as it was."""
        ledger.donate("gift", 5)
        host.commit()
        host.execute("BEGIN")
        host.execute("INSERT INTO job VALUES ('job')")
        ledger.donate("gift", 5)
        with pytest.raises(freetier.Conflict):
            ledger.donate("gift", 6)
        with pytest.raises(InvalidInput):
            ledger.adjust("down", -20_000, note="too much")
        host.commit()
        assert len(host.execute("SELECT * FROM job").fetchall()) == 1

    def test_a_schema_that_is_not_trusted(self, tmp_path: Path) -> None:
        """The schema asks for nothing that SQLite refuses where `trusted_schema` is off."""
        with closing(sqlite3.connect(tmp_path / "host.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            migrate(connection)
            ledger = FreeTier(POLICY, SQLiteRepository(connection))
            ledger.seed()
            assert ledger.reserve(JOB).absorb_sats == 120

    def test_the_connection_is_left_as_it_was(
        self, host: sqlite3.Connection, ledger: FreeTier
    ) -> None:
        """Row factory, isolation level and pragmas stay the host's, and a read begins nothing."""
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "cache_size")
        host.execute("PRAGMA synchronous = OFF")
        host.execute("PRAGMA foreign_keys = ON")
        before = [tuple(host.execute(f"PRAGMA {name}").fetchone()) for name in names]
        level = host.isolation_level
        host.row_factory = factory = lambda _, row: {"first": row[0]}
        again = FreeTier(POLICY, SQLiteRepository(host))
        again.decide(JOB)
        again.pool_status()
        assert not host.in_transaction
        again.reserve(JOB)
        host.commit()
        assert again.verify().ok
        again.close()
        assert host.row_factory is factory
        host.row_factory = None
        assert host.isolation_level == level
        assert [tuple(host.execute(f"PRAGMA {name}").fetchone()) for name in names] == before

    def test_a_lock_is_the_hosts_to_wait_for(
        self, host: sqlite3.Connection, ledger: FreeTier, path: Path
    ) -> None:
        """A locked file is unavailable at once, or after the host's own busy timeout."""
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                ledger.reserve(JOB)
            other.rollback()
        assert ledger.reserve(JOB).absorb_sats == 120

    def test_another_threads_connection(self, ledger: FreeTier) -> None:
        """Used in a thread that did not open it, the connection is refused, clearly."""
        caught: list[Exception] = []

        def use() -> None:
            try:
                ledger.decide(JOB)
            except ConfigError as error:
                caught.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert "thread" in str(caught[0])
