"""The proofs of a key that were used, in the service's database: a restart forgets none of them."""

from __future__ import annotations

from datetime import datetime, timedelta

from anyio import from_thread
from sqlalchemy import text

from freetier.values import to_us

from .store import Store

TABLES = (
    "CREATE TABLE IF NOT EXISTS used_proofs (id TEXT PRIMARY KEY, until_us BIGINT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS used_proofs_until ON used_proofs (until_us)",
)
KEPT_LONGER = timedelta(hours=1)
"""How long after its window a proof is kept: a clock that is set back by less opens no gap."""


class UsedProofs:
    """A `freetier.nostr.Seen`, for checks in a thread of the event loop's, as FastAPI runs them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def first_time(self, event_id: str, *, now: datetime, until: datetime) -> bool:
        """See `Seen.first_time`."""
        return from_thread.run(self._note, event_id, until)

    async def forget(self, now: datetime) -> None:
        """Forget what nobody can use any more."""
        async with self._store.writing() as books:
            sql = text("DELETE FROM used_proofs WHERE until_us < :before")
            await books.connection.execute(sql, {"before": to_us(now - KEPT_LONGER)})

    async def _note(self, event_id: str, until: datetime) -> bool:
        async with self._store.writing() as books:
            sql = text(
                "INSERT INTO used_proofs VALUES (:id, :until) ON CONFLICT (id) DO NOTHING"
                " RETURNING id"
            )
            noted = await books.connection.execute(sql, {"id": event_id, "until": to_us(until)})
            return bool(noted.all())
