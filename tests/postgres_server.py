"""A real Postgres for the tests: one that the caller names, else a throw-away one.

A throw-away server listens on a unix socket alone. Nothing of it stays when the tests are gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests import postgres_programs
from tests.kept_folder import kept_folder

GIVEN = "FREETIER_TEST_DSN"

DEFAULTS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "max_wal_size": "128MB",
    "port": "5432",
}
"""For tests that no crash of the machine matters to. With `fsync` on, the data lies on the disk."""

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 2**30
"""What must be free there for a server's data: far more than it takes."""

Stop = Literal["fast", "immediate"]
SIGNALS: dict[Stop, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
PATIENCE_S = 60
"""How long a server may take to start or to stop; both are done in a blink."""


class Server:
    """A running Postgres, 15 or newer, in which the tests may create databases."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def dsn(self, database: str | None = None, user: str | None = None) -> str:
        """A URL for psycopg, for asyncpg and, with the scheme changed, for SQLAlchemy.

        Without arguments, of the database and the user that the server itself was named with.
        """
        fields = conninfo_to_dict(self._dsn, dbname=database, user=user)
        name = quote(str(fields.pop("dbname", "postgres")), safe="")
        return f"postgresql:///{name}?{urlencode(fields, safe='/', quote_via=quote)}"

    @property
    def version(self) -> int:
        """The major version, as in 18."""
        with psycopg.connect(self.dsn()) as connection:
            return connection.info.server_version // 10_000

    def create(self, template: str | None = None) -> str:
        """The dsn of a new database: empty, or a copy of `template`, which nobody may be using.

        Its encoding is UTF8 and its locale C, as the template's must be.
        """
        name = f"freetier_{uuid4().hex}"
        # Copying files takes half the time of the default, which writes all of it to the log.
        self._run(
            "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY"
            " ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'",
            name,
            template or "template0",
        )
        return self.dsn(name)

    def drop(self, name: str) -> None:
        """Removes a database and ends every connection to it."""
        self._run("DROP DATABASE {} WITH (FORCE)", name)

    def drop_role(self, name: str) -> None:
        """Removes a role, if there is one, that owns nothing and has no rights any more."""
        self._run("DROP ROLE IF EXISTS {}", name)

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def database_name(dsn: str) -> str:
    """The database that a dsn names: for `create` and `drop`."""
    return str(conninfo_to_dict(dsn)["dbname"])


class OwnServer(Server):
    """A throw-away Postgres.

    `bin` holds its programs, `folder` its socket and its log, `data` its databases. `run_as` is
    what `subprocess` needs to run another of the programs as the server's user. A second server
    whose data lies in a folder in `folder` comes to the same end.
    """

    def __init__(self, programs: Path, folder: Path, port: str, run_as: dict[str, Any]) -> None:
        super().__init__(f"postgresql:///postgres?host={folder}&port={port}&user=postgres")
        self.bin = programs
        self.folder = folder
        self.data = folder / "data"
        self.run_as = run_as
        self._postgres = self._started()

    @property
    def process(self) -> int:
        """The id of the server's first process; another one after a restart."""
        return self._postgres.pid

    def restart(self, mode: Stop) -> None:
        """Stops it and starts it again; after `immediate` it recovers, as after a crash."""
        self.stop(mode)
        self._postgres = self._started()

    def stop(self, mode: Stop) -> None:
        """Ends it and every connection to it."""
        self._postgres.send_signal(SIGNALS[mode])
        self._postgres.send_signal(signal.SIGCONT)  # a test may have frozen it
        self._postgres.wait(PATIENCE_S)

    def _started(self) -> subprocess.Popen[bytes]:
        """Its first process, as soon as it takes connections."""
        log = self.folder / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C is meant for the tests
                **self.run_as,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                process.send_signal(signal.SIGQUIT)
                process.wait(PATIENCE_S)
                raise RuntimeError(f"Postgres did not start:\n{log.read_text()}")
            time.sleep(0.005)
        return process

    def _is_ready(self, process: int) -> bool:
        """Whether the lock file, which names the process first and its state last, says so."""
        try:
            words = (self.data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return words[:1] == [str(process)] and words[-1] == "ready"


@contextmanager
def shared() -> Iterator[Server]:
    """The server that FREETIER_TEST_DSN names; without one, a throw-away server."""
    if given := os.environ.get(GIVEN):
        yield Server(given)
    else:
        with server() as own:
            yield own


@contextmanager
def server(**settings: str) -> Iterator[OwnServer]:
    """A throw-away server with these of Postgres' settings over the `DEFAULTS`.

    Raises `RuntimeError`, which says what to do, where Postgres is not found or does not start.
    """
    chosen = DEFAULTS | settings
    with (
        postgres_programs.within_reach(postgres_programs.found()) as programs,
        kept_folder(_place(chosen)) as folder,
    ):
        run_as = postgres_programs.run_as(folder, programs)
        _make_data(programs, folder, run_as, chosen)
        own = OwnServer(programs, folder, chosen["port"], run_as)
        try:
            yield own
        finally:
            own.stop("immediate")


def _place(settings: Mapping[str, str]) -> str:
    """Where to put a server: in memory, where that has room and the data need not last.

    On a disk a database takes ten times as long to make. The path is short, as a socket's must be.
    """
    in_memory = settings["fsync"] == "off" and os.access(MEMORY, os.W_OK)
    return str(MEMORY) if in_memory and shutil.disk_usage(MEMORY).free > MEMORY_BYTES else "/tmp"


def _make_data(
    programs: Path, folder: Path, run_as: dict[str, Any], settings: Mapping[str, str]
) -> None:
    """A new server's data, with settings by which it listens in the folder alone."""
    data = folder / "data"
    new = ["-U", "postgres", "-E", "UTF8", "--no-locale", "--auth=trust"]
    made = subprocess.run(
        [programs / "initdb", "-D", data, *new, "--no-sync", "--no-instructions"],
        check=False,
        capture_output=True,
        text=True,
        **run_as,
    )
    if made.returncode != 0:
        raise RuntimeError(f"initdb did not make a server:\n{made.stdout}{made.stderr}")
    here = {"listen_addresses": "", "unix_socket_directories": str(folder)}
    (data / "postgresql.conf").write_text(
        "".join(f"{name} = '{value}'\n" for name, value in {**here, **settings}.items())
    )
