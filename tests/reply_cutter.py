"""A relay before Postgres that loses the reply to every write: it is done, and nobody hears."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

WRITTEN = re.compile(rb"INSERT 0 [1-9]")
"""What the server says when entries are written; not where all were refused."""


class Cutter:
    """Relays between the clients of its own dsn and the server of another."""

    def __init__(self, dsn: str, folder: Path) -> None:
        to = conninfo_to_dict(dsn)
        self.dsn = f"postgresql:///{to['dbname']}?host={quote(str(folder))}&user={to['user']}"
        self.lost = 0
        """How many replies it lost."""
        self.lets_in = True
        """Whether clients get through; not after a lost reply, where `goes_away` says so."""
        self.goes_away = False
        self._server = f"{to['host']}/.s.PGSQL.{to['port']}"
        self._served: list[asyncio.Future[None]] = []

    async def relay(self, ours: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Serve one client until one end hangs up, or a reply is lost: then both are hung up on."""
        served = asyncio.get_running_loop().create_future()
        self._served.append(served)
        if self.lets_in:
            await self._between(ours, client)
        client.close()
        with suppress(ConnectionError):
            await client.wait_closed()
        served.set_result(None)

    async def _between(self, ours: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        theirs, server = await asyncio.open_unix_connection(self._server)
        ways = [
            asyncio.create_task(self._pass(ours, server)),
            asyncio.create_task(self._pass(theirs, client)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        server.close()
        with suppress(ConnectionError):
            await server.wait_closed()

    async def drained(self) -> None:
        """Wait for the clients that are hanging up."""
        await asyncio.gather(*self._served)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                if WRITTEN.search(data):
                    self.lost += 1
                    self.lets_in = not self.goes_away
                    return
                target.write(data)
                await target.drain()


@asynccontextmanager
async def cutter(dsn: str, folder: Path) -> AsyncIterator[Cutter]:
    """Such a relay, with its socket in the folder."""
    relay = Cutter(dsn, folder)
    async with await asyncio.start_unix_server(relay.relay, folder / ".s.PGSQL.5432"):
        yield relay
        await relay.drained()
