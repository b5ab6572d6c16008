"""Deliberate defects, each of which the tests must find.

`python -m tests.seeded_bugs` puts each in turn into a copy of the code, and runs the tests that
ought to fail by it; whatever passes is a hole in the tests. Without any they must pass: that is
seen first. Arguments are numbers of defects.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

ROOT = Path(__file__).parent.parent
SQLITE = "schema/sqlite/0001_ledger.sql"
POSTGRES = "schema/postgres/0001_ledger.sql"


@frozen
class Defect:
    """What is wrong, where it is put in, what it replaces, and the tests that find it."""

    what: str
    file: str
    right: str
    wrong: str
    tests: str

    @property
    def path(self) -> Path:
        """The file, from the project's root."""
        return Path("src/freetier") / self.file


DEFECTS: Final = (
    Defect(
        "a budget is one sat larger than it is",
        "policy.py",
        "left = budget - snapshot.identity_used_sats",
        "left = budget - snapshot.identity_used_sats + 1",
        "test_policy.py",
    ),
    Defect(
        "a share is rounded up",
        "policy.py",
        "available * self.pool_share_bp // WHOLE_BP",
        "-(-available * self.pool_share_bp // WHOLE_BP)",
        "test_policy.py test_laws.py",
    ),
    Defect(
        "the floor is forgotten",
        "policy.py",
        "left = snapshot.balance_sats - snapshot.reserved_sats - self.floor_sats",
        "left = snapshot.balance_sats - snapshot.reserved_sats",
        "test_policy.py",
    ),
    Defect(
        "the caller is charged first",
        "values.py",
        "charged = min(actual - absorbed, self.charge_sats)",
        "charged = min(actual, self.charge_sats)",
        "test_values.py",
    ),
    Defect(
        "another price is answered like the first",
        "admission.py",
        "asked = (request.identity, request.tier, request.price_sats)",
        "asked = (request.identity, request.tier, grant.decision.price_sats)",
        "test_flows.py",
    ),
    Defect(
        "settled again, with other figures, is answered like the first",
        "admission.py",
        "if grant.settlement.actual_sats == settlement.actual_sats:",
        "if grant.settlement.actual_sats >= 0:",
        "test_flows.py",
    ),
    Defect(
        "an expired grant is settled as if it were held",
        "admission.py",
        "                kind = Kind.LATE\n",
        "                kind = Kind.SETTLE\n",
        "test_expiry.py",
    ),
    Defect(
        "expiry gives the allowance back",
        "_sql.py",
        "g.price_sats, 0, 0, -g.absorb_sats, 0,",
        "g.price_sats, 0, 0, -g.absorb_sats, -g.absorb_sats,",
        "test_expiry.py",
    ),
    Defect(
        "time runs back with the clock",
        "_sql_parts.py",
        "CASE WHEN :now_us > at_us THEN :now_us ELSE at_us END",
        "CASE WHEN :now_us > 0 THEN :now_us ELSE at_us END",
        "test_expiry.py test_contract.py",
    ),
    Defect(
        "a cap on SQLite is one sat too far",
        SQLITE,
        "AND u.used_sats + NEW.used_change > NEW.budget_sats)",
        "AND u.used_sats + NEW.used_change > NEW.budget_sats + 1)",
        "test_guard.py",
    ),
    Defect(
        "the remainder of a credit is lost",
        SQLITE,
        "credit_carry = coalesce(NEW.credit_carry, credit_carry),",
        "credit_carry = 0,",
        "test_deposits.py test_guard.py",
    ),
    Defect(
        "SQLite does not wait for the disk",
        "_sqlite_own.py",
        "PRAGMA synchronous=FULL",
        "PRAGMA synchronous=NORMAL",
        "test_sqlite_killed.py test_sqlite.py",
    ),
    Defect(
        "a fork uses its parent's file",
        "_fork.py",
        "        if self.forked():",
        "        if False:",
        "test_sqlite.py test_postgres.py",
    ),
    Defect(
        "the pool's row is read and not locked",
        POSTGRES,
        "AS l WHERE l.pool = NEW.pool FOR UPDATE;\n  IF NOT FOUND THEN\n    RETURN NULL;\n"
        "  END IF;\n  NEW.seq",
        "AS l WHERE l.pool = NEW.pool;\n  IF NOT FOUND THEN\n    RETURN NULL;\n"
        "  END IF;\n  NEW.seq",
        "test_postgres_waiting.py test_races.py",
    ),
    Defect(
        "a gate and a draw of one request do not wait for each other",
        POSTGRES,
        "  PERFORM pg_advisory_xact_lock(\n"
        "    hashtextextended(TG_TABLE_SCHEMA || ' ' || NEW.pool || ' ' || NEW.key, 0));\n  IF",
        "  IF",
        "test_postgres_waiting.py",
    ),
    Defect(
        "a refused entry moves the pool",
        POSTGRES,
        "    IF is_known\n",
        "    IF FALSE\n",
        "test_postgres_guard.py",
    ),
    Defect(
        "a late settlement goes below the floor",
        POSTGRES,
        "NEW.absorb_sats > 0 AND NEW.balance_sats - NEW.reserved_sats < NEW.floor_sats)\n      OR",
        "FALSE)\n      OR",
        "test_postgres_guard.py",
    ),
    Defect(
        "a batch may draw an allowance once for each of its draws",
        POSTGRES,
        "by_identity[draw.same_identity] := by_identity[draw.same_identity] + draw.absorb_sats;",
        "NULL;",
        "test_postgres_draws.py",
    ),
    Defect(
        "whoever fills in what is once gets past the guard",
        POSTGRES,
        "  THEN\n    NEW.once := NULL;",
        "  THEN\n    NULL;",
        "test_postgres_forging.py",
    ),
    Defect(
        "callers that wait are forgotten with a leader that is interrupted",
        "_gathering.py",
        "self._waiting.extendleft(reversed([call for call in taken if not call.done]))",
        "pass",
        "test_gathering.py",
    ),
    Defect(
        "whoever may insert moves the clock",
        POSTGRES,
        "journal has come to.\n  IF NEW.at_us > p.at_us\n    AND",
        "journal has come to.\n  IF FALSE AND",
        "test_postgres_role.py",
    ),
    Defect(
        "a write whose outcome is unknown is said not to be there",
        "_postgres_errors.py",
        "kind = OutcomeUnknown if writes else StoreUnavailable",
        "kind = StoreUnavailable",
        "test_postgres_faults.py",
    ),
    Defect(
        "a cancelled call keeps its connection",
        "_psycopg_async.py",
        "            await asyncio.shield(self._pool.putconn(connection))",
        "            await self._pool.putconn(connection)",
        "test_cancellation.py",
    ),
    Defect(
        "a gap in the journal is passed over",
        "_auditor.py",
        'entry.seq == self.count, "seq {} stands at {}"',
        'True, "seq {} stands at {}"',
        "test_audit.py",
    ),
    Defect(
        "the pool's part is promised to every open request of a session",
        "sessions.py",
        "unpromised = _room(estimate) - session.promised_sats",
        "unpromised = _room(estimate)",
        "test_sessions.py",
    ),
    Defect(
        "a refund may be begun twice",
        "invoices.py",
        "if not ready or self.payment_hash is not None:",
        "if not ready:",
        "test_jobs.py",
    ),
)


def first_to_fail(tests: Iterable[str], defect: Defect | None = None) -> str | None:
    """The first of the tests that fails in a copy of the project, with the defect put in."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "tests", "examples", "docs", "benchmarks"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if defect is not None:
            path = copy / defect.path
            text = path.read_text("utf-8")
            assert text.count(defect.right) == 1, defect.what
            path.write_text(text.replace(defect.right, defect.wrong), "utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-n0", "-x", "--timeout=120"),
                *("-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)),
            ],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return None
    named = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    assert named, done.stdout[-3000:] + done.stderr[-3000:]
    return named[1]


def main(arguments: Sequence[str]) -> int:
    """Try them; 1 if one was not found, or if a test fails without any."""
    wanted = [DEFECTS[int(argument) - 1] for argument in arguments] or DEFECTS
    tests = sorted({name for defect in wanted for name in defect.tests.split()})
    if failed := first_to_fail(tests):
        print(f"{failed} fails by itself")
        return 1
    missed = 0
    for defect in wanted:
        found_by = first_to_fail(defect.tests.split(), defect)
        missed += found_by is None
        print(f"{defect.what}: {found_by or 'MISSED'}", flush=True)
    print(f"{len(wanted) - missed} of {len(wanted)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
