"""Lightning by an LNbits wallet: its invoices in, its payments out."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from freetier.invoices import Invoice

from .lightning import NodeError, Outcome
from .lnurl import invoice_of_address
from .turns import Turns

_OUTCOMES = {"success": Outcome.PAID, "pending": Outcome.PENDING, "failed": Outcome.FAILED}


ON_THE_WAY_S = 600
"""How long a call of ours that was not answered may still reach LNbits, and pay."""


class SaidNo(NodeError):
    """LNbits answered, and will not do it."""


class LNbitsNode:
    """See `Node`. `key` is the wallet's admin key; `webhook` is called when an invoice was paid.

    An invoice carries its key as LNbits' `external_id`, so it is found again by a service that was
    killed before it noted the invoice. Two processes that ask for the same key at once are not
    kept apart: let one process serve a database.
    """

    def __init__(
        self,
        url: str,
        key: str,
        webhook: str,
        *,
        plain_addresses: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        # Loopback or not, the wallet's key goes to the wallet: no proxy of the environment's.
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"X-Api-Key": key},
            timeout=30,
            trust_env=False,
            transport=transport,
        )
        self._webhook = webhook
        self._plain_addresses = plain_addresses
        self._making = Turns()

    async def invoice(self, key: str, sats: int, ttl: timedelta, memo: str) -> Invoice:
        """See `Node.invoice`."""
        async with self._making.alone(key):
            made = await self._made(key) or await self._call(
                "POST",
                "/api/v1/payments",
                {
                    "out": False,
                    "amount": sats,
                    "unit": "sat",
                    "memo": memo,
                    "expiry": math.ceil(ttl.total_seconds()),
                    "external_id": key,
                    "webhook": self._webhook,
                },
            )
        return Invoice(
            made["payment_hash"],
            made["bolt11"],
            made["amount"] // 1000,
            datetime.fromtimestamp(await self._expires_at(made["bolt11"]), UTC),
        )

    async def is_paid(self, invoice_id: str) -> bool:
        """See `Node.is_paid`."""
        payment = await self._payment(invoice_id, incoming=True)
        return payment is not None and payment["status"] == "success"

    async def key_of(self, invoice_id: str) -> str | None:
        """See `Node.key_of`."""
        payment = await self._payment(invoice_id, incoming=True)
        return payment["external_id"] if payment else None

    async def invoice_of(self, destination: str, sats: int) -> tuple[str, str]:
        """See `Node.invoice_of`."""
        bolt11 = destination
        if "@" in destination:
            bolt11 = await invoice_of_address(destination, sats, plain=self._plain_addresses)
        decoded = await self._decoded(bolt11)
        if decoded.get("amount_msat") != sats * 1000:
            raise NodeError(f"the invoice of {destination[:40]} is not over {sats} sats")
        return bolt11, str(decoded["payment_hash"])

    async def pay(self, bolt11: str, payment_hash: str) -> Outcome:
        """See `Node.pay`."""
        if (before := await self._outcome(payment_hash)) is not None:
            return before
        try:
            await self._call("POST", "/api/v1/payments", {"out": True, "bolt11": bolt11})
        except SaidNo:
            if (after := await self._outcome(payment_hash)) is not None:
                return after
            if await self._expires_at(bolt11) + ON_THE_WAY_S < time.time():
                return Outcome.FAILED  # nobody can pay it any more
            raise
        return await self._outcome(payment_hash) or Outcome.PENDING

    async def close(self) -> None:
        """See `Node.close`."""
        await self._http.aclose()

    async def _made(self, key: str) -> Any:
        found = await self._call("GET", "/api/v1/payments", params={"external_id": key})
        ours = [made for made in found if made["external_id"] == key]
        return next((made for made in ours if made["amount"] > 0), None)

    async def _outcome(self, payment_hash: str) -> Outcome | None:
        """How our payment of an invoice went; None if there was none."""
        payment = await self._payment(payment_hash, incoming=False)
        return _OUTCOMES[payment["status"]] if payment else None

    async def _payment(self, payment_hash: str, *, incoming: bool) -> Any:
        """The wallet's own payment by its hash; a wallet that pays itself has one each way."""
        params = {"payment_hash": payment_hash}
        found = await self._call("GET", "/api/v1/payments", params=params)
        ours = [made for made in found if made["payment_hash"] == payment_hash]
        return next((made for made in ours if (made["amount"] > 0) is incoming), None)

    async def _expires_at(self, bolt11: str) -> float:
        """As the invoice itself says, in seconds since 1970; an hour is BOLT 11's default."""
        decoded = await self._decoded(bolt11)
        return float(decoded["date"] + (decoded.get("expiry") or 3600))

    async def _decoded(self, bolt11: str) -> dict[str, Any]:
        decoded = await self._call("POST", "/api/v1/payments/decode", {"data": bolt11})
        if not isinstance(decoded, dict) or not {"payment_hash", "date"} <= decoded.keys():
            raise NodeError(f"{bolt11[:40]} is no invoice")
        return decoded

    async def _call(
        self, method: str, path: str, body: object = None, params: dict[str, str] | None = None
    ) -> Any:
        try:
            response = await self._http.request(method, path, json=body, params=params)
        except httpx.HTTPError as error:
            raise NodeError(f"LNbits did not answer: {type(error).__name__}") from error
        if response.is_error:
            raise SaidNo(f"LNbits says {response.status_code}: {response.text[:200]}")
        try:
            return response.json()
        except ValueError as error:
            raise NodeError("what LNbits says is no JSON") from error
