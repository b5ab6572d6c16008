"""Lightning on paper, for a first try: invoices that anybody may mark as paid, in our own tables.

Nobody is paid anything. `POST /api/paper/{invoice}/pay` stands for a wallet.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import text

from freetier.invoices import Invoice
from freetier.values import from_us, to_us

from .lightning import Outcome
from .store import Store

TABLE = """
CREATE TABLE IF NOT EXISTS paper_payments (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    sats BIGINT NOT NULL,
    outgoing BOOLEAN NOT NULL,
    expires_at_us BIGINT NOT NULL,
    paid BOOLEAN NOT NULL
)
"""


class PaperNode:
    """See `Node`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def invoice(self, key: str, sats: int, ttl: timedelta, memo: str) -> Invoice:
        """See `Node.invoice`."""
        row = await self._once(key, sats, outgoing=False, ttl=ttl)
        return Invoice(row["id"], f"lnpaper{row['id']}", row["sats"], from_us(row["expires_at_us"]))

    async def is_paid(self, invoice_id: str) -> bool:
        """See `Node.is_paid`."""
        row = await self._find("id", invoice_id)
        return row is not None and bool(row["paid"])

    async def key_of(self, invoice_id: str) -> str | None:
        """See `Node.key_of`."""
        row = await self._find("id", invoice_id)
        return None if row is None or row["outgoing"] else row["key"]

    async def invoice_of(self, destination: str, sats: int) -> tuple[str, str]:
        """See `Node.invoice_of`. On paper every destination has one, a new one each time."""
        named = f"{destination} {sats} {datetime.now(UTC).isoformat()}"
        row = await self._once(named, sats, outgoing=True, ttl=timedelta(hours=1))
        return f"lnpaper{row['id']}", row["id"]

    async def pay(self, bolt11: str, payment_hash: str) -> Outcome:
        """See `Node.pay`."""
        await self._mark(payment_hash, outgoing=True)
        return Outcome.PAID

    async def receive(self, invoice_id: str) -> bool:
        """Mark an invoice of ours as paid, as a wallet does; False if there is none."""
        return await self._mark(invoice_id, outgoing=False)

    async def close(self) -> None:
        """See `Node.close`."""

    async def _mark(self, payment_id: str, *, outgoing: bool) -> bool:
        async with self._store.writing() as books:
            sql = text(
                "UPDATE paper_payments SET paid = TRUE WHERE id = :id AND outgoing = :outgoing"
                " RETURNING id"
            )
            values = {"id": payment_id, "outgoing": outgoing}
            return bool((await books.connection.execute(sql, values)).all())

    async def _once(self, key: str, sats: int, *, outgoing: bool, ttl: timedelta) -> Any:
        values = {
            "id": sha256(key.encode()).hexdigest(),
            "key": key,
            "sats": sats,
            "outgoing": outgoing,
            "expires_at_us": to_us(datetime.now(UTC) + ttl),
            "paid": False,
        }
        async with self._store.writing() as books:
            sql = text(
                "INSERT INTO paper_payments VALUES"
                " (:id, :key, :sats, :outgoing, :expires_at_us, :paid) ON CONFLICT (id) DO NOTHING"
            )
            await books.connection.execute(sql, values)
        return await self._find("key", key)

    async def _find(self, column: str, value: str) -> Any:
        sql = text(f"SELECT * FROM paper_payments WHERE {column} = :value")
        async with self._store.reading() as books:
            return (await books.connection.execute(sql, {"value": value})).mappings().first()
