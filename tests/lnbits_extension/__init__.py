"""An LNbits extension that sells jobs: a pool pays what it can, an invoice asks for the rest."""

from fastapi import APIRouter
from lnbits.task_manager import task_manager

from .ledger import db
from .payments import on_invoice_paid
from .views_api import api

ft_ext = APIRouter(prefix="/ft", tags=["ft"])
ft_ext.include_router(api)


def ft_start() -> None:
    """Called by LNbits once it has migrated the database."""
    task_manager.register_invoice_listener(on_invoice_paid, name="ext_ft")


__all__ = ["db", "ft_ext", "ft_start"]
