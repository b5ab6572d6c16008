"""Two real servers, a primary and its standby, and what happens to such a pair."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from attrs import frozen
from psycopg.conninfo import conninfo_to_dict

from tests.kept_folder import kept_folder
from tests.postgres_programs import run_as
from tests.postgres_server import DEFAULTS, OwnServer, server

PATIENCE_S = 30
WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@frozen
class Pair:
    """A primary, and a standby that streams from it and can be read."""

    primary: OwnServer
    standby: OwnServer

    def dsn(self, database: str) -> str:
        """A URL of the database at whichever of the two can be written to."""
        ends = [conninfo_to_dict(each.dsn()) for each in (self.primary, self.standby)]
        fields = {name: ",".join(str(end[name]) for end in ends) for name in ("host", "port")}
        fields |= {"user": "postgres", "target_session_attrs": "read-write"}
        return f"postgresql:///{quote(database, safe='')}?{urlencode(fields, safe='/,')}"

    def make_synchronous(self) -> None:
        """From now on a commit waits until the standby has it, too."""
        ask(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        ask(self.primary, "SELECT pg_reload_conf()")
        _wait_for(self.primary, "SELECT sync_state = 'sync' FROM pg_stat_replication")

    def catch_up(self) -> None:
        """Until the standby shows what the primary has now."""
        [(there,)] = ask(self.primary, "SELECT pg_current_wal_flush_lsn()::text")
        _wait_for(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{there}'")

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Inside, nothing of what the primary writes leaves for the standby."""
        [(found,)] = ask(self.primary, "SELECT pid FROM pg_stat_replication")
        sender = int(str(found))
        os.kill(sender, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):  # the primary was lost
                os.kill(sender, signal.SIGCONT)

    def waits(self) -> bool:
        """Whether somebody's commit waits for the standby."""
        return ask(self.primary, f"SELECT 1 {WAITING}") != []

    def cancel_waits(self) -> None:
        """Nobody's commit waits for the standby any more: as an operator may do it."""
        ask(self.primary, f"SELECT pg_cancel_backend(pid) {WAITING}")

    def lose_primary(self) -> None:
        """All of its processes end at once, as when its machine goes."""
        os.kill(self.primary.process, signal.SIGSTOP)  # it starts nothing more
        for process in _children(self.primary):
            os.kill(process, signal.SIGKILL)
        os.kill(self.primary.process, signal.SIGKILL)
        self.primary.stop("immediate")
        (self.primary.data / "postmaster.pid").unlink()

    def promote(self) -> None:
        """The standby can be written to."""
        ask(self.standby, "SELECT pg_promote()")


@contextmanager
def pair() -> Iterator[Pair]:
    """A primary and an asynchronous standby.

    A commit is kept through the loss of a server, not through that of the tests' machine.
    """
    with server(synchronous_commit="on") as primary, _standby(primary) as standby:
        yield Pair(primary, standby)


@contextmanager
def _standby(primary: OwnServer) -> Iterator[OwnServer]:
    with kept_folder(str(primary.folder.parent)) as folder:
        how = run_as(folder, primary.bin)
        backup = [str(primary.bin / "pg_basebackup"), "-d", primary.dsn(), "-D", f"{folder}/data"]
        subprocess.run(
            [*backup, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"], check=True, **how
        )
        with (folder / "data" / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"unix_socket_directories = '{folder}'\n")
        standby = OwnServer(primary.bin, folder, DEFAULTS["port"], how)
        try:
            yield standby
        finally:
            standby.stop("immediate")


@contextmanager
def hanging(server: OwnServer) -> Iterator[None]:
    """Inside, the server does nothing, and no connection to it ends: as when its machine hangs."""
    os.kill(server.process, signal.SIGSTOP)
    processes = [*_children(server), server.process]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def ask(server: OwnServer, query: str) -> list[tuple[object, ...]]:
    """The rows that the query gives."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def _wait_for(server: OwnServer, query: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while ask(server, query) != [(True,)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"in vain: {query}\n{(server.folder / 'log').read_text()}")
        time.sleep(0.005)


def _children(server: OwnServer) -> list[int]:
    first = server.process
    return [int(word) for word in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
