-- The ledger: one table of facts, the tables that follow from it, and the guard.
--
-- A statement ends with a semicolon at the end of a line that an empty line (or the end) follows.
-- Money is sats, times are microseconds since 1970, days are days since 1970, shares are basis
-- points. Two kinds of no: RAISE(IGNORE) refuses an entry that came too late (a known key, a limit
-- used up meanwhile): no row, no error. A CHECK fails an entry that could never have been right.

CREATE TABLE freetier_schema (
  one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  version INTEGER NOT NULL
) STRICT;

-- The pool: what its journal adds up to, as of entry `seq`. One total for each kind of entry.
CREATE TABLE freetier_pool (
  pool             TEXT    NOT NULL PRIMARY KEY,
  seq              INTEGER NOT NULL DEFAULT 0,
  at_us            INTEGER NOT NULL DEFAULT 0,
  balance_sats     INTEGER NOT NULL DEFAULT 0,
  reserved_sats    INTEGER NOT NULL DEFAULT 0,
  credit_carry     INTEGER NOT NULL DEFAULT 0 CHECK (credit_carry BETWEEN 0 AND 9999),
  seed_sats        INTEGER NOT NULL DEFAULT 0,
  credit_sats      INTEGER NOT NULL DEFAULT 0,
  donation_sats    INTEGER NOT NULL DEFAULT 0,
  adjustment_sats  INTEGER NOT NULL DEFAULT 0,
  reserve_sats     INTEGER NOT NULL DEFAULT 0,
  grant_sats       INTEGER NOT NULL DEFAULT 0,
  settle_sats      INTEGER NOT NULL DEFAULT 0,
  release_sats     INTEGER NOT NULL DEFAULT 0,
  expire_sats      INTEGER NOT NULL DEFAULT 0,
  late_sats        INTEGER NOT NULL DEFAULT 0,
  CHECK (0 <= reserved_sats AND reserved_sats <= balance_sats AND balance_sats <= 2100000000000000),
  CHECK (balance_sats = seed_sats + credit_sats + donation_sats + adjustment_sats
                        - grant_sats - settle_sats - late_sats)
) STRICT, WITHOUT ROWID;

-- What was drawn on a day: by each identity, by each tier, and by everybody (scope 'pool').
CREATE TABLE freetier_usage (
  pool      TEXT    NOT NULL,
  day       INTEGER NOT NULL,
  scope     TEXT    NOT NULL CHECK (scope IN ('identity', 'tier', 'pool')),
  name      TEXT    NOT NULL,
  used_sats INTEGER NOT NULL CHECK (used_sats >= 0),
  PRIMARY KEY (pool, day, scope, name)
) STRICT, WITHOUT ROWID;

-- The grants that hold sats, the first to expire first. Small: as many rows as open grants.
CREATE TABLE freetier_open (
  pool          TEXT    NOT NULL,
  expires_at_us INTEGER NOT NULL,
  key           TEXT    NOT NULL,
  absorb_sats   INTEGER NOT NULL CHECK (absorb_sats > 0),
  PRIMARY KEY (pool, expires_at_us, key)
) STRICT, WITHOUT ROWID;

-- Gates of known identities: unmet demand, and the answer that a retry gets. Rows may be deleted.
CREATE TABLE freetier_gate (
  pool         TEXT    NOT NULL,
  key          TEXT    NOT NULL,
  at_us        INTEGER NOT NULL,
  day          INTEGER NOT NULL,
  identity     TEXT    NOT NULL,
  tier         TEXT    NOT NULL,
  price_sats   INTEGER NOT NULL CHECK (price_sats > 0),
  bound_by     TEXT    NOT NULL,
  rooms        TEXT    NOT NULL,
  resets_at_us INTEGER,
  PRIMARY KEY (pool, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX freetier_gate_day ON freetier_gate (pool, day, price_sats);

-- The facts. What each kind moves is the CHECK below, row by row of the design's table.
CREATE TABLE freetier_journal (
  pool              TEXT    NOT NULL,
  seq               INTEGER NOT NULL,
  kind              TEXT    NOT NULL,
  key               TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 256),
  at_us             INTEGER NOT NULL,
  identity          TEXT,
  tier              TEXT,
  day               INTEGER,
  price_sats        INTEGER CHECK (price_sats BETWEEN 1 AND 2100000000000000),
  absorb_sats       INTEGER CHECK (absorb_sats >= 0),
  charge_sats       INTEGER CHECK (charge_sats >= 0),
  paid_sats         INTEGER CHECK (paid_sats BETWEEN 1 AND 2100000000000000),
  refund_sats       INTEGER CHECK (refund_sats >= 0),
  overrun_sats      INTEGER CHECK (overrun_sats >= 0),
  uncovered_sats    INTEGER CHECK (uncovered_sats >= 0),
  budget_sats       INTEGER,
  tier_ceiling_sats INTEGER,
  release_sats      INTEGER,
  floor_sats        INTEGER CHECK (floor_sats >= 0),
  pool_share_bp     INTEGER CHECK (pool_share_bp BETWEEN 0 AND 10000),
  bound_by          TEXT,
  rooms             TEXT,
  resets_at_us      INTEGER,
  expires_at_us     INTEGER,
  credit_share_bp   INTEGER CHECK (credit_share_bp BETWEEN 0 AND 10000),
  credit_carry      INTEGER CHECK (credit_carry BETWEEN 0 AND 9999),
  sponsor           TEXT,
  note              TEXT,
  balance_change    INTEGER NOT NULL,
  reserved_change   INTEGER NOT NULL,
  used_change       INTEGER NOT NULL,
  balance_sats      INTEGER NOT NULL,
  reserved_sats     INTEGER NOT NULL,
  -- What there is only one of under a key: one draw, one ending, one of each other kind.
  once              TEXT    NOT NULL GENERATED ALWAYS AS (CASE
    WHEN kind IN ('reserve', 'grant') THEN 'draw'
    WHEN kind IN ('settle', 'release', 'expire') THEN 'ending'
    ELSE kind END) VIRTUAL,
  PRIMARY KEY (pool, seq),
  CHECK (coalesce(CASE kind
    WHEN 'seed' THEN key = 'seed' AND balance_change >= 0 AND reserved_change = 0 AND used_change = 0
    WHEN 'credit' THEN balance_change >= 0 AND reserved_change = 0 AND used_change = 0
      AND balance_change <= paid_sats AND credit_share_bp IS NOT NULL AND credit_carry IS NOT NULL
    WHEN 'donation' THEN balance_change > 0 AND reserved_change = 0 AND used_change = 0
    WHEN 'adjustment' THEN balance_change <> 0 AND reserved_change = 0 AND used_change = 0
    WHEN 'reserve' THEN balance_change = 0 AND reserved_change = absorb_sats
      AND used_change = absorb_sats AND absorb_sats > 0 AND absorb_sats + charge_sats = price_sats
      AND expires_at_us > at_us AND day = at_us / 86400000000
    WHEN 'grant' THEN balance_change = -absorb_sats AND reserved_change = 0
      AND used_change = absorb_sats AND absorb_sats > 0 AND absorb_sats + charge_sats = price_sats
      AND day = at_us / 86400000000
    WHEN 'settle' THEN balance_change = -absorb_sats AND reserved_change < 0
      AND used_change = absorb_sats + reserved_change AND used_change <= 0
      AND refund_sats IS NOT NULL AND overrun_sats IS NOT NULL AND charge_sats IS NOT NULL
    WHEN 'release' THEN balance_change = 0 AND reserved_change < 0 AND used_change = reserved_change
    WHEN 'expire' THEN balance_change = 0 AND reserved_change < 0 AND used_change = 0
    WHEN 'late' THEN balance_change = -absorb_sats AND reserved_change = 0 AND used_change <= 0
      AND refund_sats IS NOT NULL AND overrun_sats IS NOT NULL AND charge_sats IS NOT NULL
      AND uncovered_sats IS NOT NULL AND floor_sats IS NOT NULL
  END, 0)),
  CHECK (kind IN ('seed', 'credit', 'donation', 'adjustment')
    OR coalesce(length(identity) BETWEEN 1 AND 256 AND length(tier) BETWEEN 1 AND 256, 0)),
  CHECK (kind NOT IN ('reserve', 'grant')
    OR (budget_sats IS NOT NULL AND floor_sats IS NOT NULL AND rooms IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- Every read by key names what it wants one of: only then does SQLite use this index.
CREATE UNIQUE INDEX freetier_journal_once ON freetier_journal (pool, key, once);

-- The guard. It runs before the row is written, with the pool's writers already in line, and
-- refuses what no longer fits. It also meets INSERT OR REPLACE, which fires no delete trigger:
-- an entry is only ever the next one, under a key that is not there.
CREATE TRIGGER freetier_journal_guard BEFORE INSERT ON freetier_journal
BEGIN
  -- Next in line, not back in time, meeting the totals before it, and within what the pool has.
  SELECT RAISE(IGNORE) WHERE NOT EXISTS (
    SELECT 1 FROM freetier_pool AS p
    WHERE p.pool = NEW.pool AND NEW.seq = p.seq + 1 AND NEW.at_us >= p.at_us
      AND NEW.balance_sats = p.balance_sats + NEW.balance_change
      AND NEW.reserved_sats = p.reserved_sats + NEW.reserved_change
      AND 0 <= NEW.reserved_sats AND NEW.reserved_sats <= NEW.balance_sats
      AND NEW.balance_sats <= 2100000000000000);
  -- Once.
  SELECT RAISE(IGNORE) WHERE EXISTS (
    SELECT 1 FROM freetier_journal AS j
    WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = NEW.once);
  -- A draw: not gated before, on its own day, within the floor, the share and the three day caps.
  SELECT RAISE(IGNORE) WHERE NEW.kind IN ('reserve', 'grant') AND (
    NEW.day <> NEW.at_us / 86400000000
    OR NEW.expires_at_us <= NEW.at_us
    OR EXISTS (SELECT 1 FROM freetier_gate AS g WHERE g.pool = NEW.pool AND g.key = NEW.key)
    OR NEW.balance_sats - NEW.reserved_sats < NEW.floor_sats
    OR EXISTS (
      SELECT 1 FROM freetier_pool AS p WHERE p.pool = NEW.pool AND NEW.absorb_sats >
        (p.balance_sats - p.reserved_sats) / 10000 * NEW.pool_share_bp
        + (p.balance_sats - p.reserved_sats) % 10000 * NEW.pool_share_bp / 10000)
    OR NEW.used_change > NEW.budget_sats
    OR EXISTS (
      SELECT 1 FROM freetier_usage AS u WHERE u.pool = NEW.pool AND u.day = NEW.day
        AND u.scope = 'identity' AND u.name = NEW.identity
        AND u.used_sats + NEW.used_change > NEW.budget_sats)
    OR NEW.used_change > NEW.tier_ceiling_sats
    OR EXISTS (
      SELECT 1 FROM freetier_usage AS u WHERE u.pool = NEW.pool AND u.day = NEW.day
        AND u.scope = 'tier' AND u.name = NEW.tier
        AND u.used_sats + NEW.used_change > NEW.tier_ceiling_sats)
    OR NEW.used_change > NEW.release_sats
    OR EXISTS (
      SELECT 1 FROM freetier_usage AS u WHERE u.pool = NEW.pool AND u.day = NEW.day
        AND u.scope = 'pool' AND u.name = ''
        AND u.used_sats + NEW.used_change > NEW.release_sats));
  -- An ending: of a held grant, on the right side of its expiry, with that grant's own figures.
  SELECT RAISE(IGNORE) WHERE NEW.kind IN ('settle', 'release', 'expire') AND NOT EXISTS (
    SELECT 1 FROM freetier_journal AS g
    WHERE g.pool = NEW.pool AND g.key = NEW.key AND g.once = 'draw' AND g.kind = 'reserve'
      AND NEW.identity = g.identity AND NEW.tier = g.tier AND NEW.day = g.day
      AND NEW.price_sats = g.price_sats AND NEW.reserved_change = -g.absorb_sats
      AND (NEW.kind = 'expire') = (NEW.at_us >= g.expires_at_us)
      AND (NEW.kind <> 'settle' OR NEW.charge_sats + NEW.refund_sats = g.charge_sats));
  -- A late settlement: of an expired grant, in its figures, within what the pool has.
  SELECT RAISE(IGNORE) WHERE NEW.kind = 'late' AND (
    (NEW.absorb_sats > 0 AND NEW.balance_sats - NEW.reserved_sats < NEW.floor_sats)
    OR NOT EXISTS (
      SELECT 1 FROM freetier_journal AS g
      WHERE g.pool = NEW.pool AND g.key = NEW.key AND g.once = 'draw' AND g.kind = 'reserve'
        AND NEW.identity = g.identity AND NEW.tier = g.tier AND NEW.day = g.day
        AND NEW.price_sats = g.price_sats AND NEW.used_change = NEW.absorb_sats - g.absorb_sats
        AND NEW.absorb_sats + NEW.uncovered_sats <= g.absorb_sats
        AND NEW.charge_sats + NEW.refund_sats = g.charge_sats)
    OR NOT EXISTS (
      SELECT 1 FROM freetier_journal AS e
      WHERE e.pool = NEW.pool AND e.key = NEW.key AND e.once = 'ending' AND e.kind = 'expire'));
  -- A credit: exactly the share, with the remainder of all credits before it.
  SELECT RAISE(IGNORE) WHERE NEW.kind = 'credit' AND NOT EXISTS (
    SELECT 1 FROM freetier_pool AS p
    WHERE p.pool = NEW.pool
      AND NEW.balance_change = NEW.paid_sats / 10000 * NEW.credit_share_bp
        + (NEW.paid_sats % 10000 * NEW.credit_share_bp + p.credit_carry) / 10000
      AND NEW.credit_carry = (NEW.paid_sats % 10000 * NEW.credit_share_bp + p.credit_carry) % 10000);
END;

-- What follows from an accepted entry, in the statement that inserts it.
CREATE TRIGGER freetier_journal_post AFTER INSERT ON freetier_journal
BEGIN
  UPDATE freetier_pool SET
    seq = NEW.seq, at_us = NEW.at_us,
    balance_sats = NEW.balance_sats, reserved_sats = NEW.reserved_sats,
    credit_carry = coalesce(NEW.credit_carry, credit_carry),
    seed_sats = seed_sats + CASE NEW.kind WHEN 'seed' THEN NEW.balance_change ELSE 0 END,
    credit_sats = credit_sats + CASE NEW.kind WHEN 'credit' THEN NEW.balance_change ELSE 0 END,
    donation_sats = donation_sats + CASE NEW.kind WHEN 'donation' THEN NEW.balance_change ELSE 0 END,
    adjustment_sats = adjustment_sats + CASE NEW.kind WHEN 'adjustment' THEN NEW.balance_change ELSE 0 END,
    reserve_sats = reserve_sats + CASE NEW.kind WHEN 'reserve' THEN NEW.reserved_change ELSE 0 END,
    grant_sats = grant_sats - CASE NEW.kind WHEN 'grant' THEN NEW.balance_change ELSE 0 END,
    settle_sats = settle_sats - CASE NEW.kind WHEN 'settle' THEN NEW.balance_change ELSE 0 END,
    release_sats = release_sats - CASE NEW.kind WHEN 'release' THEN NEW.reserved_change ELSE 0 END,
    expire_sats = expire_sats - CASE NEW.kind WHEN 'expire' THEN NEW.reserved_change ELSE 0 END,
    late_sats = late_sats - CASE NEW.kind WHEN 'late' THEN NEW.balance_change ELSE 0 END
  WHERE pool = NEW.pool;
  INSERT INTO freetier_usage (pool, day, scope, name, used_sats)
    SELECT NEW.pool, NEW.day, 'identity', NEW.identity, NEW.used_change WHERE NEW.used_change > 0
    UNION ALL SELECT NEW.pool, NEW.day, 'tier', NEW.tier, NEW.used_change WHERE NEW.used_change > 0
    UNION ALL SELECT NEW.pool, NEW.day, 'pool', '', NEW.used_change WHERE NEW.used_change > 0
    ON CONFLICT (pool, day, scope, name) DO UPDATE SET used_sats = used_sats + excluded.used_sats;
  UPDATE freetier_usage SET used_sats = used_sats + NEW.used_change
    WHERE NEW.used_change < 0 AND pool = NEW.pool AND day = NEW.day
      AND (scope, name) IN (VALUES ('identity', NEW.identity), ('tier', NEW.tier), ('pool', ''));
  INSERT INTO freetier_open (pool, expires_at_us, key, absorb_sats)
    SELECT NEW.pool, NEW.expires_at_us, NEW.key, NEW.absorb_sats WHERE NEW.kind = 'reserve';
  DELETE FROM freetier_open
    WHERE NEW.kind IN ('settle', 'release', 'expire') AND pool = NEW.pool AND key = NEW.key
      AND expires_at_us = (
        SELECT g.expires_at_us FROM freetier_journal AS g
        WHERE g.pool = NEW.pool AND g.key = NEW.key AND g.once = 'draw' AND g.kind = 'reserve');
  -- INSERT OR IGNORE makes the statements above skip what they cannot do: then nothing may stand.
  SELECT RAISE(ABORT, 'freetier: the pool did not follow its journal')
    WHERE NOT EXISTS (
      SELECT 1 FROM freetier_pool AS p WHERE p.pool = NEW.pool AND p.seq = NEW.seq);
END;

CREATE TRIGGER freetier_journal_no_update BEFORE UPDATE ON freetier_journal
BEGIN
  SELECT RAISE(ABORT, 'freetier: the journal is append-only');
END;

CREATE TRIGGER freetier_journal_no_delete BEFORE DELETE ON freetier_journal
BEGIN
  SELECT RAISE(ABORT, 'freetier: the journal is append-only');
END;

-- The pool's row moves only to where its journal already is.
CREATE TRIGGER freetier_pool_follows BEFORE UPDATE ON freetier_pool
WHEN NEW.pool <> OLD.pool OR NEW.seq <> OLD.seq + 1 OR NOT EXISTS (
  SELECT 1 FROM freetier_journal AS j
  WHERE j.pool = NEW.pool AND j.seq = NEW.seq AND j.at_us = NEW.at_us
    AND j.balance_sats = NEW.balance_sats AND j.reserved_sats = NEW.reserved_sats)
BEGIN
  SELECT RAISE(ABORT, 'freetier: the pool follows its journal');
END;

CREATE TRIGGER freetier_pool_stays BEFORE DELETE ON freetier_pool
BEGIN
  SELECT RAISE(ABORT, 'freetier: the pool follows its journal');
END;

INSERT INTO freetier_pool (pool) VALUES ('main');

INSERT INTO freetier_schema (one, version) VALUES (1, 1);
