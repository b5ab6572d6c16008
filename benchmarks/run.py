"""One run of the benchmarks: what was asked for, and what its sections share."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from attrs import define, field

from benchmarks.ledgers import flushing_slowly
from benchmarks.measure import LeftOut
from tests.postgres_server import Server, database_name, server

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
FEWEST = 3


@define
class Run:
    """What was asked for; a folder on the disk; the facts that belong to the figures.

    `stack` closes at the end what sections share.
    """

    folder: Path
    stack: ExitStack
    rounds: int = 15
    full: bool = False
    trace: Path | None = None
    flush_us: int = 0
    url: str | None = None
    facts: dict[str, Any] = field(factory=dict)
    _postgres: str | None = None

    @property
    def few(self) -> int:
        """Rounds for what takes long: a third, but several."""
        return max(FEWEST, self.rounds // 3)

    @property
    def many(self) -> int:
        """Rounds for what takes next to no time: the more there are, the less a single one counts.

        A sample is then so short that most are over before another process has its turn.
        """
        return self.rounds * 10

    def postgres(self) -> str:
        """The URL of a new database, on the server that was named, else on one of this run's own.

        One for all sections, whose flushes take as much longer as was asked for. Raises `LeftOut`
        where there is no server, or it does not wait for the disk.
        """
        if self._postgres is None:
            on = self._server()
            with psycopg.connect(on.dsn()) as connection:
                for name in (*DURABLE, "server_version"):
                    value = connection.execute(f"SHOW {name}".encode()).fetchone()
                    self.facts[f"postgres {name}"] = value and value[0]
            if lax := [name for name in DURABLE if self.facts[f"postgres {name}"] == "off"]:
                raise LeftOut(f"the server does not wait for its disk: {', '.join(lax)} off")
            self.facts["postgres flush_us"] = self.flush_us
            database = on.create()
            self.stack.callback(on.drop, database_name(database))
            self._postgres = flushing_slowly(database, self.flush_us)
        return self._postgres

    def _server(self) -> Server:
        if self.url is not None:
            return Server(self.url)
        settings = {**DURABLE, "shared_buffers": "512MB", "max_wal_size": "2GB"}
        try:
            return self.stack.enter_context(server(**settings))
        except RuntimeError as error:
            raise LeftOut(f"no Postgres: {error}") from error
