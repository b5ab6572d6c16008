"""One caller on Postgres, durable, against one UPDATE of one row on the same connection.

Both wait for one flush of the disk; the rest is work of the processors. So the ratios are those of
one machine: the faster its disk, the higher they are. `--flush-us` shows them for a slower one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import psycopg

from benchmarks.ledgers import POLICY, connection_of, postgres_ledger, random_keys, requests
from benchmarks.measure import Call, Line, Subjects, at_most, timed
from benchmarks.operations import NAMES, operations
from benchmarks.run import Run
from freetier import FreeTier, Request, _sql
from freetier._postgres_text import numbered
from freetier.entries import Kind
from freetier.postgres import PostgresRepository
from freetier.repository import Draw

TITLE = "Postgres, durable, one caller, against one UPDATE"
SCHEMA = "one_caller"
ENTRIES = 1_000
CALLS = 50
WARM = 3
"""The driver and the server prepare a statement only when it has come some times."""


def lines(run: Run) -> Iterator[Line]:
    """All on one connection to one database."""
    with postgres_ledger(run.postgres(), SCHEMA, ENTRIES) as repository:
        ledger, request = FreeTier(POLICY, repository), requests(random_keys())
        subjects = Subjects()
        subjects.add("update", timed(one_update(repository, SCHEMA), CALLS))
        subjects.add("statement", timed(_statement(repository), CALLS))
        subjects.add("reserve", timed(lambda: ledger.reserve(request()), CALLS))
        subjects.samples |= operations(lambda: ledger, CALLS)
        rounds = subjects.measured(run.rounds, warm=WARM)
    yield rounds.compared("reserve / one UPDATE", "reserve", "update", at_most(1.7))
    yield rounds.compared(
        "the statement that records / one UPDATE", "statement", "update", at_most(1.5)
    )
    for name in NAMES:
        yield rounds.compared(f"{name} / one UPDATE", name, "update")


def one_update(repository: PostgresRepository, schema: str) -> Call:
    """The floor: the least that can be durably written, on the repository's own connection."""
    connection, table = connection_of(repository), f"{schema}.one_row"
    for statement in (
        f"CREATE TABLE {table} (id int PRIMARY KEY, n bigint) WITH (fillfactor=10)",
        f"INSERT INTO {table} VALUES (1, 0)",
    ):
        connection.execute(statement.encode())
    cursor = psycopg.RawCursor(connection)
    update = f"UPDATE {table} SET n = n + 1 WHERE id = $1".encode()
    return lambda: cursor.execute(update, (1,))


def _statement(repository: PostgresRepository) -> Call:
    """The statement that records, alone, as the UPDATE is run: through a cursor of the driver."""
    cursor = psycopg.RawCursor(connection_of(repository))
    snapshot = repository.look("none", None).snapshot
    request = Request("request", "id-statement", "elite", 1)
    decision, caps = POLICY.decide(request, snapshot), POLICY.caps(request, snapshot.at)
    expires_at = snapshot.at + timedelta(minutes=15)
    query = _sql.draw(Draw(Kind.RESERVE, request, decision, caps, snapshot.at, expires_at))
    text, names = numbered(query.text, repository._schema)

    def record() -> object:
        params = {**query.params, "key": str(uuid4())}
        rows = cursor.execute(text.encode(), [params[name] for name in names]).fetchall()
        assert len(rows) == 1
        return rows

    return record
