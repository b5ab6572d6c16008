"""The API. Whoever has a wallet's admin key is a service, and vouches for its own callers."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from lnbits.core.crud import get_standalone_payment
from lnbits.core.models import WalletTypeInfo
from lnbits.decorators import require_admin_key
from pydantic import BaseModel, StrictInt

from freetier import GrantState, Request

from .ledger import JOBS, db, ledger
from .payments import invoice_for, on_invoice_paid

api = APIRouter(prefix="/api/v1")
Key = Annotated[WalletTypeInfo, Depends(require_admin_key)]


class NewJob(BaseModel):
    id: str
    identity: str
    tier: str
    price_sats: StrictInt
    question: str


@api.post("/jobs")
async def create_job(new: NewJob, key: Key) -> dict[str, Any]:
    """What the caller has to pay; asked again with the same id, the same answer."""
    async with db.connect() as conn:
        ft = ledger(conn)
        grant = await ft.reserve(Request(new.id, new.identity, new.tier, new.price_sats))
        free = grant.charge_sats == 0
        if free and grant.state is GrantState.OPEN:
            await ft.settle(new.id)
        await conn.execute(
            f"""
            INSERT INTO {JOBS} (id, question, paid) VALUES (:id, :question, :paid)
            ON CONFLICT (id) DO NOTHING
            """,
            {"id": new.id, "question": new.question, "paid": free},
        )
    return {
        "serve": grant.decision.serve,
        "absorb_sats": grant.absorb_sats,
        "charge_sats": grant.charge_sats,
        "invoice": None if free else await invoice_for(grant, key.wallet.id),
    }


@api.post("/payments/{payment_hash}/check")
async def check_payment(payment_hash: str, key: Key) -> dict[str, bool]:
    """Whether it was paid. Makes up for a lost notice: LNbits gives each only once."""
    payment = await get_standalone_payment(payment_hash, incoming=True)
    paid = payment is not None and payment.success
    if paid:
        await on_invoice_paid(payment)
    return {"paid": paid}


@api.get("/pool")
async def read_pool(key: Key) -> dict[str, int]:
    """What the pool has."""
    async with db.connect() as conn:
        pool = await ledger(conn).pool_status()
    return {"available_sats": pool.available_sats, "reserved_sats": pool.reserved_sats}
