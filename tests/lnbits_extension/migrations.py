"""The tables. LNbits runs each `mNNN_` function once, in order."""

from lnbits.db import Connection

from freetier import migrations

from .ledger import JOBS, SCHEMA, ledger


async def m001_ledger(db: Connection) -> None:
    """The ledger's tables, and the first sats of its pool."""
    await migrations.migrate_async(db.conn, SCHEMA)
    await ledger(db).seed()
    await db.conn.commit()


async def m002_jobs(db: Connection) -> None:
    """The extension's own rows."""
    await db.execute(
        f"""
        CREATE TABLE {JOBS} (
            id TEXT PRIMARY KEY,
            question TEXT NOT NULL CHECK (question <> ''),
            paid BOOLEAN NOT NULL,
            payment_hash TEXT UNIQUE,
            bolt11 TEXT
        )
        """
    )
