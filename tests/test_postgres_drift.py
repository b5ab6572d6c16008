"""The schema in Postgres, known again when it drifted."""

from __future__ import annotations

import psycopg
import pytest

import freetier
from freetier import SchemaError

from .postgres_server import database_name
from .test_postgres_schema import POLICY, change, serves

LETS_PASS = "LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
JOURNAL = "ALTER TABLE freetier_journal"
GATE = "ALTER TABLE {0}.freetier_gate"
GUARDS = "FOR EACH ROW WHEN (NEW.once IS NULL) EXECUTE FUNCTION"
ONCE = "DROP INDEX {0}.freetier_journal_once;"
ONCE += "CREATE UNIQUE INDEX freetier_journal_once ON {0}.freetier_journal"
UNCHECKED = "DROP CONSTRAINT freetier_gate_price_sats_check"
CHECKED = f"{UNCHECKED}, ADD CONSTRAINT freetier_gate_price_sats_check CHECK"
KEY = "DROP CONSTRAINT freetier_journal_pkey, ADD PRIMARY KEY"


class TestDrift:
    """What guards the journal is all there, as it was made, and nothing else hangs on it."""

    @pytest.mark.parametrize(
        ("named", "statement"),
        [
            (
                "function freetier_journal_guard",
                f"CREATE OR REPLACE FUNCTION freetier_journal_guard() RETURNS trigger {LETS_PASS}",
            ),
            ("trigger freetier_journal_guard", f"{JOURNAL} DISABLE TRIGGER freetier_journal_guard"),
            ("trigger freetier_journal_guard", f"{JOURNAL} DISABLE TRIGGER ALL"),
            (
                "trigger freetier_journal_guard",
                f"{JOURNAL} ENABLE REPLICA TRIGGER freetier_journal_guard",
            ),
            (
                "trigger freetier_pool_follows",
                "DROP TRIGGER freetier_pool_follows ON freetier_pool",
            ),
            (
                "trigger audit_log",
                "CREATE TRIGGER audit_log BEFORE INSERT ON freetier_journal"
                " FOR EACH ROW EXECUTE FUNCTION freetier_journal_guard()",
            ),
            (
                "trigger freetier_journal_stays",
                "CREATE OR REPLACE TRIGGER freetier_journal_stays BEFORE TRUNCATE"
                " ON freetier_journal FOR EACH STATEMENT"
                " EXECUTE FUNCTION freetier_stays('the journal is append-only')",
            ),
            (
                "function freetier_journal_guard",
                "ALTER FUNCTION freetier_journal_guard() SECURITY INVOKER",
            ),
            ("function freetier_gate_guard", "ALTER FUNCTION freetier_gate_guard() RESET ALL"),
            (
                "trigger freetier_journal_counted",
                f"{JOURNAL} DISABLE TRIGGER freetier_journal_counted",
            ),
            (
                "trigger freetier_journal_counted",
                "CREATE OR REPLACE TRIGGER freetier_journal_counted BEFORE INSERT"
                " ON freetier_journal FOR EACH ROW WHEN (NEW.once <> 'draw')"
                " EXECUTE FUNCTION freetier_journal_counted()",
            ),
            (
                "trigger freetier_journal_guard",
                "CREATE OR REPLACE TRIGGER freetier_journal_guard BEFORE INSERT"
                " ON freetier_journal FOR EACH ROW WHEN (NEW.once IS NULL AND NEW.seq > 0)"
                " EXECUTE FUNCTION freetier_journal_guard()",
            ),
            (
                "function freetier_journal_counted",
                "CREATE OR REPLACE FUNCTION freetier_journal_counted() RETURNS trigger"
                f" {LETS_PASS}",
            ),
            (
                "trigger freetier_draws_guard",
                "DROP TRIGGER freetier_draws_guard ON freetier_draws",
            ),
            ("trigger freetier_draws_guard", "DROP VIEW freetier_draws"),
            ("function freetier_draws_guard", "ALTER FUNCTION freetier_draws_guard() RESET ALL"),
            ("unique index freetier_journal_once", "DROP INDEX freetier_journal_once"),
            (
                "unique index freetier_journal_pkey",
                f"{JOURNAL} DROP CONSTRAINT freetier_journal_pkey",
            ),
            (
                "rule lost",
                "CREATE RULE lost AS ON INSERT TO freetier_journal DO INSTEAD NOTHING",
            ),
        ],
    )
    def test_a_drifted_schema_is_named(self, postgres_dsn: str, named: str, statement: str) -> None:
        """What guards the journal and is changed, off, gone or new is a SchemaError."""
        serves(postgres_dsn)
        change(postgres_dsn, statement)
        with pytest.raises(SchemaError, match=named):
            freetier.open(postgres_dsn, POLICY)

    @pytest.mark.parametrize(
        ("named", "statement"),
        [
            (
                "trigger freetier_journal_guard on freetier_journal",
                "CREATE SCHEMA IF NOT EXISTS evil; CREATE OR REPLACE FUNCTION"
                f" evil.freetier_journal_guard() RETURNS trigger {LETS_PASS};"
                " CREATE OR REPLACE TRIGGER freetier_journal_guard BEFORE INSERT ON"
                f" {{0}}.freetier_journal {GUARDS} evil.freetier_journal_guard()",
            ),
            (
                "trigger freetier_journal_guard on freetier_gate",
                "CREATE TRIGGER freetier_journal_guard BEFORE INSERT ON {0}.freetier_gate"
                " FOR EACH ROW EXECUTE FUNCTION {0}.freetier_journal_counted()",
            ),
            (
                "trigger freetier_journal_stays on freetier_journal",
                "CREATE OR REPLACE TRIGGER freetier_journal_stays"
                " BEFORE UPDATE OF note OR DELETE OR TRUNCATE ON {0}.freetier_journal"
                " FOR EACH STATEMENT EXECUTE FUNCTION {0}.freetier_stays('append-only')",
            ),
            (
                "function freetier_journal_counted",
                "ALTER FUNCTION {0}.freetier_journal_counted() VOLATILE",
            ),
            ("unique index freetier_journal_once", f"{ONCE} (pool, seq, once)"),
            ("unique index freetier_journal_once", f"{ONCE} (pool, key, once, seq)"),
            ("unique index freetier_journal_once", f"{ONCE} (pool, key, lower(once))"),
            ("unique index freetier_journal_once", f'{ONCE} (pool, key COLLATE "POSIX", once)'),
            ("unique index freetier_journal_once", f"{ONCE} (pool, key, once) WHERE seq > 9"),
            (
                "unique index freetier_journal_pkey",
                f"ALTER TABLE {{0}}.freetier_journal {KEY} (pool, seq)",
            ),
            (
                "unique index freetier_journal_pkey",
                f"ALTER TABLE {{0}}.freetier_journal {KEY} (seq, pool) DEFERRABLE",
            ),
            ("constraint freetier_gate_price_sats_check", f"{GATE} {UNCHECKED}"),
            (
                "constraint freetier_gate_price_sats_check",
                f"{GATE} {CHECKED} (price_sats > 0) NOT VALID",
            ),
            ("constraint freetier_gate_price_sats_check", f"{GATE} {CHECKED} (day > 0)"),
            ("constraint few on freetier_gate", f"{GATE} ADD CONSTRAINT few CHECK (day < 9)"),
            (
                "constraint here on freetier_gate",
                f"{GATE} ADD CONSTRAINT here FOREIGN KEY (pool) REFERENCES {{0}}.freetier_pool",
            ),
            ("column freetier_gate.tier", f"{GATE} ALTER tier DROP NOT NULL"),
            ("column freetier_gate.day", f"{GATE} ALTER resets_at_us SET NOT NULL, DROP day"),
            ("column freetier_gate.resets_at_us", f"{GATE} ALTER resets_at_us SET NOT NULL"),
            ("column freetier_gate.at_us", f"{GATE} ALTER at_us TYPE NUMERIC"),
            ("column freetier_gate.rooms", f'{GATE} ALTER rooms TYPE TEXT COLLATE "POSIX"'),
            (
                "column freetier_gate.rooms",
                "CREATE SCHEMA IF NOT EXISTS evil;"
                'CREATE COLLATION IF NOT EXISTS evil."C" FROM "POSIX";'
                f'{GATE} ALTER rooms TYPE TEXT COLLATE evil."C"',
            ),
            ("column freetier_gate.mood", f"{GATE} ADD mood TEXT"),
            ("column freetier_gate.rooms", f"{GATE} DROP rooms"),
            ("column freetier_gate.day", f"{GATE} ALTER day SET DEFAULT 7"),
            ("column freetier_gate.day", f"{GATE} ALTER day ADD GENERATED ALWAYS AS IDENTITY"),
            (
                "column freetier_gate.resets_at_us",
                f"{GATE} DROP resets_at_us, ADD resets_at_us BIGINT"
                " GENERATED ALWAYS AS (at_us) STORED",
            ),
            ("column freetier_pool.seq", "ALTER TABLE {0}.freetier_pool ALTER seq DROP DEFAULT"),
            ("column freetier_usage.day", "DROP TABLE {0}.freetier_usage"),
            ("column freetier_draws.kinds", "ALTER VIEW {0}.freetier_draws RENAME kinds TO sorts"),
            (
                "column freetier_draws.at_us",
                "ALTER VIEW {0}.freetier_draws ALTER at_us SET DEFAULT 7",
            ),
            ("view freetier_draws", "DROP VIEW {0}.freetier_draws"),
            (
                "rule lost on freetier_draws",
                "CREATE RULE lost AS ON INSERT TO {0}.freetier_draws DO INSTEAD NOTHING",
            ),
            (
                "table freetier_journal",
                "CREATE TABLE {0}.more () INHERITS ({0}.freetier_journal)",
            ),
            (
                "table freetier_gate",
                "CREATE TABLE {0}.all_gates (day BIGINT); " + GATE + " INHERIT {0}.all_gates",
            ),
            (
                "table freetier_gate",
                f"{GATE} ENABLE ROW LEVEL SECURITY; {GATE} FORCE ROW LEVEL SECURITY",
            ),
            ("table freetier_gate", f"{GATE} SET UNLOGGED"),
            (
                "unique index few",
                "CREATE UNIQUE INDEX few ON {0}.freetier_gate (day);"
                "UPDATE pg_index SET indisvalid = FALSE"
                " WHERE indexrelid = '{0}.few'::regclass",
            ),
            (
                "unique index freetier_journal_once",
                "UPDATE pg_index SET indisvalid = FALSE"
                " WHERE indexrelid = '{0}.freetier_journal_once'::regclass",
            ),
        ],
    )
    def test_what_drifted_in_any_schema_is_named(
        self, postgres_dsn: str, named: str, statement: str
    ) -> None:
        """By what it is on, not by its name alone; and each schema is known by itself."""
        schemas = {None: "public", 'of USING "us".': '"of USING ""us""."'}
        for schema in schemas:
            freetier.open(postgres_dsn, POLICY, schema=schema).close()
        for schema, quoted in schemas.items():
            freetier.open(postgres_dsn, POLICY, schema=schema).close()
            change(postgres_dsn, statement.format(quoted))
            with pytest.raises(SchemaError, match=rf"\b{named}\b"):
                freetier.open(postgres_dsn, POLICY, schema=schema)

    def test_a_namesake_on_the_search_path(self, postgres_dsn: str) -> None:
        """Nothing is known by its name alone, whatever the search path finds first."""
        freetier.open(postgres_dsn, POLICY).close()
        change(
            postgres_dsn,
            "CREATE SCHEMA evil",
            "CREATE DOMAIN evil.text AS pg_catalog.text",
            'CREATE COLLATION evil."C" FROM "POSIX"',
            "CREATE FUNCTION evil.more(BIGINT, INT) RETURNS BOOLEAN LANGUAGE sql AS 'SELECT TRUE'",
            *(
                f"CREATE OPERATOR evil.{name} (LEFTARG=BIGINT, RIGHTARG=INT, FUNCTION=evil.more)"
                for name in "=>"
            ),
            f"ALTER DATABASE {database_name(postgres_dsn)}"
            " SET search_path = evil, pg_catalog, public",
            f"ALTER DATABASE {database_name(postgres_dsn)} SET quote_all_identifiers = on",
        )
        serves(postgres_dsn)
        change(
            postgres_dsn,
            "ALTER TABLE freetier_gate ALTER bound_by TYPE evil.text,"
            ' ALTER rooms TYPE pg_catalog.text COLLATE evil."C"',
            f"{GATE.format('public')} {CHECKED} (price_sats > 0)",
        )
        named = (
            r"added: column freetier_gate\.bound_by, column freetier_gate\.rooms,"
            r" constraint freetier_gate_price_sats_check on freetier_gate\b"
        )
        with pytest.raises(SchemaError, match=named):
            freetier.open(postgres_dsn, POLICY)

    @pytest.mark.parametrize(
        "schema",
        [
            "my.freetier_x",
            'o\'brien \\ "co"',
            "{oid} %s :a",
            "x WHEN (y) EXECUTE FUNCTION z",
            "x EXECUTE FUNCTION y WHEN z ",
        ],
    )
    def test_a_name_of_any_kind(self, postgres_dsn: str, schema: str) -> None:
        """A schema is known again by any name, whatever a backslash means on the server."""
        change(
            postgres_dsn,
            f"ALTER DATABASE {database_name(postgres_dsn)} SET standard_conforming_strings = off",
        )
        serves(postgres_dsn, schema)
        with freetier.open(postgres_dsn, POLICY, schema=schema) as ledger:
            assert ledger.verify().ok

    def test_a_hosts_own_beside_it(self, postgres_dsn: str) -> None:
        """Tables, functions and triggers of the host's in the same schema are its own affair."""
        freetier.open(postgres_dsn, POLICY).close()
        change(
            postgres_dsn,
            "CREATE TABLE freetier_customers (id TEXT PRIMARY KEY CHECK (id > ''),"
            " gate TEXT DEFAULT 'none', pool TEXT REFERENCES freetier_pool)",
            "CREATE VIEW freetier_gated AS SELECT * FROM freetier_gate",
            "CREATE FUNCTION freetier_gate_guard(of INT) RETURNS INT LANGUAGE sql AS 'SELECT 1'",
            f"CREATE FUNCTION freetier_hello() RETURNS trigger {LETS_PASS}",
            "CREATE TRIGGER hello BEFORE INSERT ON freetier_customers"
            " FOR EACH ROW EXECUTE FUNCTION freetier_hello()",
        )
        serves(postgres_dsn)

    def test_an_index_more_breaks_nothing(self, postgres_dsn: str) -> None:
        """An index that the operator added is fine."""
        freetier.open(postgres_dsn, POLICY).close()
        change(postgres_dsn, "CREATE INDEX by_identity ON freetier_journal (identity)")
        serves(postgres_dsn)

    def test_row_security_of_others_breaks_nothing(self, postgres_dsn: str) -> None:
        """Row security that does not bind the owner, whose rights the guard has, is fine."""
        freetier.open(postgres_dsn, POLICY).close()
        change(postgres_dsn, f"{JOURNAL} ENABLE ROW LEVEL SECURITY")
        serves(postgres_dsn)

    @pytest.mark.parametrize("schema", ["public", "of us"])
    def test_an_index_that_is_made_anew(self, postgres_dsn: str, schema: str) -> None:
        """What a REINDEX CONCURRENTLY needs while it runs, or left when it failed, is fine."""
        freetier.open(postgres_dsn, POLICY, schema=schema).close()
        with psycopg.connect(postgres_dsn, autocommit=True) as reindexing:
            reindexing.execute("SET lock_timeout = '100ms'")
            with psycopg.connect(postgres_dsn) as writing:
                index = f'"{schema}".freetier_journal_once'
                writing.execute(f'LOCK "{schema}".freetier_journal IN ROW EXCLUSIVE MODE'.encode())
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    reindexing.execute(f"REINDEX INDEX CONCURRENTLY {index}".encode())
            left = "SELECT FROM pg_class WHERE relname = 'freetier_journal_once_ccnew'"
            assert reindexing.execute(left).rowcount == 1
        serves(postgres_dsn, schema)
