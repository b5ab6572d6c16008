"""The invoice for what the pool does not pay, and what follows when it was paid."""

from lnbits.core.models import Payment
from lnbits.core.services import create_invoice

from freetier import Grant

from .ledger import JOBS, POLICY, db, ledger


async def invoice_for(grant: Grant, wallet: str) -> dict[str, str]:
    """The one invoice of the grant's job, however often it is asked for."""
    job = {"id": grant.request_id}
    find = f"SELECT payment_hash, bolt11 FROM {JOBS} WHERE id = :id AND bolt11 IS NOT NULL"
    if await db.fetchone(find, job) is None:
        payment = await create_invoice(
            wallet_id=wallet,
            amount=grant.charge_sats,
            memo=f"job {grant.request_id}",
            expiry=POLICY.grant_ttl_s,
        )
        made = {"hash": payment.payment_hash, "bolt11": payment.bolt11}
        await db.execute(
            f"""
            UPDATE {JOBS} SET payment_hash = :hash, bolt11 = :bolt11
            WHERE id = :id AND bolt11 IS NULL
            """,
            job | made,
        )
    return dict(await db.fetchone(find, job))


async def on_invoice_paid(payment: Payment) -> None:
    """Credit the pool, settle, and note it: all three, or none. Doing so again changes nothing.

    LNbits calls it for every invoice that anybody was paid. What an invoice says of itself (its
    `extra`) anybody with a wallet can write, so only one that is in our own table is ours.
    """
    async with db.connect() as conn:
        paid = {"hash": payment.payment_hash}
        job = await conn.fetchone(f"SELECT id FROM {JOBS} WHERE payment_hash = :hash", paid)
        if job:
            ft = ledger(conn)
            await ft.credit(payment.payment_hash, payment.sat)
            await ft.settle(job["id"])
            await conn.execute(f"UPDATE {JOBS} SET paid = TRUE WHERE payment_hash = :hash", paid)
