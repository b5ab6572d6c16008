"""A real pgbouncer before the tests' Postgres: in transaction mode, on a unix socket alone.

Debian's package, extracted where it is not installed. It ends with the tests, however they end.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.debian import library_path, program
from tests.kept_folder import kept_folder
from tests.postgres_programs import run_as
from tests.postgres_server import Server, database_name

BACK_ENDS = 4
"""How many connections to the server carry all the clients of a database."""

# Round robin: a transaction goes to another back-end than the one before it.
SETTINGS = """
[databases]
* = {server}
[pgbouncer]
pool_mode = transaction
default_pool_size = {back_ends}
server_round_robin = 1
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
"""
KEEPER = """
"$@" & pgbouncer=$!
cat  # ends when the tests do: nobody else holds the other end
kill "$pgbouncer"
wait
"""
PATIENCE_S = 20


class Pooler:
    """A pgbouncer whose databases are the server's, each under its name there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def dsn(self, direct: str) -> str:
        """The URL, through the pooler, of the database that `direct` names: its back-ends run."""
        name = quote(database_name(direct), safe="")
        dsn = f"postgresql:///{name}?host={self._folder}&port=6432&user=postgres"
        with ExitStack() as clients:
            for _ in range(BACK_ENDS):
                clients.enter_context(psycopg.connect(dsn)).execute("SELECT 1")
        return dsn


@contextmanager
def pgbouncer(server: Server) -> Iterator[Pooler]:
    """A pgbouncer before the server. Raises `RuntimeError` where it cannot be had, or started."""
    with kept_folder("/tmp") as folder:
        debian = folder / "debian"
        binary = program("pgbouncer", "pgbouncer", into=debian)
        how = run_as(folder, binary.parent)
        how["env"] |= {"LD_LIBRARY_PATH": library_path(debian)}
        settings = folder / "settings"
        settings.write_text(
            SETTINGS.format(server=_login(server), back_ends=BACK_ENDS, folder=folder)
        )
        log = folder / "log"
        with (
            log.open("ab") as output,
            subprocess.Popen(
                ["sh", "-c", KEEPER, "keeper", binary, settings],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C is meant for the tests
                **how,
            ),
        ):
            _wait_for(folder / ".s.PGSQL.6432", log)
            yield Pooler(folder)


def _login(server: Server) -> str:
    """How the pooler reaches the server."""
    fields = conninfo_to_dict(server.dsn())
    names = ("host", "port", "user", "password")
    return " ".join(f"{name}='{fields[name]}'" for name in names if name in fields)


def _wait_for(socket: Path, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not socket.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"pgbouncer did not start:\n{log.read_text()}")
        time.sleep(0.005)
