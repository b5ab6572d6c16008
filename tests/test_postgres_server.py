"""The Postgres of the tests: real, of this machine alone, and gone when they are."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg.errors import AdminShutdown
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests import postgres_programs
from tests.postgres_server import Server, database_name, server

ROOT = Path(__file__).parent.parent


def answer(dsn: str, query: str) -> object:
    """The one value that the query gives."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_it_listens_on_its_socket_alone() -> None:
    """A throw-away server answers on its unix socket; its port is closed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with server(port=str(port)) as own:
        assert answer(own.dsn(), "SELECT 1") == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_every_driver_takes_the_dsn(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One dsn serves psycopg, asyncpg and SQLAlchemy on both, whatever libpq's variables say."""
    for name, value in {"PGHOST": "nowhere.invalid", "PGPORT": "1", "PGDATABASE": "other"}.items():
        monkeypatch.setenv(name, value)
    query = "SELECT current_database()"

    async def through_asyncpg() -> object:
        connection = await asyncpg.connect(postgres_dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    async def through_sqlalchemy(driver: str) -> object:
        engine = create_async_engine(postgres_dsn.replace("postgresql", f"postgresql+{driver}", 1))
        try:
            async with engine.connect() as connection:
                return await connection.scalar(text(query))
        finally:
            await engine.dispose()

    name = database_name(postgres_dsn)
    assert answer(postgres_dsn, query) == name
    assert asyncio.run(through_asyncpg()) == name
    assert asyncio.run(through_sqlalchemy("asyncpg")) == name
    assert asyncio.run(through_sqlalchemy("psycopg")) == name


def test_a_database_is_its_templates_copy(postgres_server: Server) -> None:
    """A database made from a template holds what that holds, under a name of its own."""
    template = postgres_server.create()
    with psycopg.connect(template) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    copy = postgres_server.create(template=database_name(template))
    assert copy != template
    assert answer(copy, "SELECT number FROM kept") == 7
    for dsn in (copy, template):
        postgres_server.drop(database_name(dsn))


def test_a_database_is_dropped_under_its_clients_feet(postgres_server: Server) -> None:
    """A dropped database is gone, though a client was in it."""
    dsn = postgres_server.create()
    with closing(psycopg.connect(dsn)) as client:
        postgres_server.drop(database_name(dsn))
        with pytest.raises(AdminShutdown):
            client.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)


def test_a_crash_keeps_what_was_committed() -> None:
    """With durable commit, an immediate restart keeps what was committed, and nothing else."""
    with server(fsync="on", synchronous_commit="on", full_page_writes="on") as own:
        before = own.process
        with closing(psycopg.connect(own.dsn())) as client:
            client.execute("CREATE TABLE kept AS SELECT 1 AS number")
            client.commit()
            client.execute("INSERT INTO kept VALUES (2)")
            own.restart("immediate")
        assert own.process != before
        assert answer(own.dsn(), "SELECT array_agg(number) FROM kept") == [1]
        assert "automatic recovery in progress" in (own.folder / "log").read_text()


KILLED = """
from tests.postgres_server import server
with server() as own:
    print(own.dsn(), own.folder, flush=True)
    input()
"""


def test_it_does_not_outlive_the_tests() -> None:
    """When the tests are killed, their server ends and its folder goes."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout is not None
        dsn, folder = tests.stdout.readline().split()
        with closing(psycopg.connect(dsn)) as client:
            tests.kill()
            while Path(folder).exists():
                time.sleep(0.02)
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
            assert client.broken


def test_a_wheel_out_of_reach_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's tests serve Postgres from a wheel in a folder that only root may enter."""
    monkeypatch.delenv(postgres_programs.GIVEN, raising=False)
    package = postgres_programs.found().parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, tmp_path / part.name)
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)
    assert postgres_programs.found().is_relative_to(tmp_path)
    with server() as own:
        assert answer(own.dsn(), "SELECT 1") == 1
        subprocess.run([own.bin / "psql", "--version"], check=True, **own.run_as)


def test_no_postgres_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no Postgres is found, the error names every way to have one."""
    monkeypatch.delenv(postgres_programs.GIVEN, raising=False)
    monkeypatch.setattr(postgres_programs, "WHEEL", "no_such_wheel")
    monkeypatch.setattr(postgres_programs, "DEBIAN", tmp_path)
    with pytest.raises(RuntimeError, match=r"\[test\].*FREETIER_TEST_POSTGRES_BIN.*_TEST_DSN"):
        postgres_programs.found()
    monkeypatch.setenv(postgres_programs.GIVEN, str(tmp_path))
    with pytest.raises(RuntimeError, match=f"{tmp_path}: there is no postgres in it"):
        postgres_programs.found()


def test_an_impossible_setting_is_told() -> None:
    """A server that does not start says why."""
    with pytest.raises(RuntimeError, match="shared_bufers"), server(shared_bufers="16MB"):
        pass
