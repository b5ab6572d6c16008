"""The ledger in the extension's own database, on the connection that LNbits lends."""

from lnbits.db import SQLITE, Connection, Database

from freetier import AsyncFreeTier, FreeTierPolicy
from freetier.sqlalchemy import AsyncSQLAlchemyRepository

db = Database("ext_ft")

# On Postgres an extension has a schema. On SQLite it has a file, which LNbits attaches to itself
# by the schema's name as well; a transaction that writes under both names waits for itself.
SCHEMA = None if db.type == SQLITE else db.schema
JOBS = f"{db.references_schema}jobs"

POLICY = FreeTierPolicy(budgets={"new": 0, "trusted": 200}, seed_sats=10_000)


def ledger(conn: Connection) -> AsyncFreeTier:
    """What it writes is kept by the next commit on `conn`; `conn.execute` ends with one."""
    return AsyncFreeTier(POLICY, AsyncSQLAlchemyRepository(conn.conn, schema=SCHEMA))
