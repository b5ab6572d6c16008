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

-- One answer a request: a gate is noted once, never for a request that was drawn for, and stands.
CREATE TRIGGER freetier_gate_guard BEFORE INSERT ON freetier_gate
BEGIN
  SELECT RAISE(IGNORE)
    WHERE EXISTS (SELECT 1 FROM freetier_gate AS n WHERE n.pool = NEW.pool AND n.key = NEW.key)
      OR EXISTS (SELECT 1 FROM freetier_journal AS j
                 WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = 'draw');
END;

CREATE TRIGGER freetier_gate_no_update BEFORE UPDATE ON freetier_gate
BEGIN
  SELECT RAISE(ABORT, 'freetier: a gate that was noted stands');
END;

-- The facts. The checks say, kind by kind, which figures an entry has and what it moves.
CREATE TABLE freetier_journal (
  pool              TEXT    NOT NULL,
  seq               INTEGER NOT NULL,
  kind              TEXT    NOT NULL,
  key               TEXT    NOT NULL,
  at_us             INTEGER NOT NULL,
  identity          TEXT,
  tier              TEXT,
  day               INTEGER,
  price_sats        INTEGER,
  absorb_sats       INTEGER,
  charge_sats       INTEGER,
  paid_sats         INTEGER,
  refund_sats       INTEGER,
  overrun_sats      INTEGER,
  uncovered_sats    INTEGER,
  budget_sats       INTEGER,
  tier_ceiling_sats INTEGER,
  release_sats      INTEGER,
  floor_sats        INTEGER,
  pool_share_bp     INTEGER,
  bound_by          TEXT,
  rooms             TEXT,
  resets_at_us      INTEGER,
  expires_at_us     INTEGER,
  credit_share_bp   INTEGER,
  credit_carry      INTEGER,
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
  CONSTRAINT freetier_kind CHECK (kind IN (
    'seed', 'credit', 'donation', 'adjustment',
    'reserve', 'grant', 'settle', 'release', 'expire', 'late')),
  CONSTRAINT freetier_ids CHECK (
    length(key) BETWEEN 1 AND 256 AND instr(key, char(0)) = 0
    AND coalesce(length(identity) BETWEEN 1 AND 256 AND instr(identity, char(0)) = 0, 1)
    AND coalesce(length(tier) BETWEEN 1 AND 256 AND instr(tier, char(0)) = 0, 1)
    AND (kind <> 'seed' OR key = 'seed')),
  -- Times end with the year 8999, so that what follows from one still has a date.
  CONSTRAINT freetier_bounds CHECK (
    at_us BETWEEN 0 AND 221845391999999999
    AND coalesce(resets_at_us BETWEEN 0 AND 253402300799999999, 1)
    AND coalesce(expires_at_us BETWEEN at_us + 1 AND 253402300799999999, 1)
    AND coalesce(price_sats BETWEEN 1 AND 2100000000000000, 1)
    AND coalesce(paid_sats BETWEEN 1 AND 2100000000000000, 1)
    AND coalesce(absorb_sats >= 0, 1)
    AND coalesce(charge_sats >= 0, 1) AND coalesce(refund_sats >= 0, 1)
    AND coalesce(overrun_sats >= 0, 1) AND coalesce(uncovered_sats >= 0, 1)
    AND coalesce(floor_sats >= 0, 1)
    AND coalesce(pool_share_bp BETWEEN 0 AND 10000, 1)
    AND coalesce(credit_share_bp BETWEEN 0 AND 10000, 1)
    AND coalesce(credit_carry BETWEEN 0 AND 9999, 1)),
  -- Which kinds have which figures.
  CONSTRAINT freetier_figures CHECK (
    (kind IN ('seed', 'credit', 'donation', 'adjustment')) = (identity IS NULL)
    AND (identity IS NULL) = (tier IS NULL) AND (identity IS NULL) = (day IS NULL)
    AND (identity IS NULL) = (price_sats IS NULL) AND (identity IS NULL) = (absorb_sats IS NULL)
    AND (kind IN ('reserve', 'grant', 'settle', 'late')) = (charge_sats IS NOT NULL)
    AND (kind IN ('settle', 'late')) = (refund_sats IS NOT NULL)
    AND (kind IN ('settle', 'late')) = (overrun_sats IS NOT NULL)
    AND (kind = 'late') = (uncovered_sats IS NOT NULL)
    AND (kind IN ('reserve', 'grant', 'late')) = (floor_sats IS NOT NULL)
    AND (kind IN ('reserve', 'grant')) = (budget_sats IS NOT NULL)
    AND (kind IN ('reserve', 'grant')) = (rooms IS NOT NULL)
    AND (kind = 'reserve') = (expires_at_us IS NOT NULL)
    AND (kind IN ('reserve', 'grant') OR (tier_ceiling_sats IS NULL AND release_sats IS NULL
      AND pool_share_bp IS NULL AND bound_by IS NULL AND resets_at_us IS NULL))
    AND (kind = 'credit') = (paid_sats IS NOT NULL)
    AND (kind = 'credit') = (credit_share_bp IS NOT NULL)
    AND (kind = 'credit') = (credit_carry IS NOT NULL)
    AND (kind IN ('donation', 'adjustment') OR (sponsor IS NULL AND note IS NULL))
    AND coalesce(rooms LIKE '{%}', 1)),
  -- What each kind moves: the table in docs/explanation/design.md, row by row.
  CONSTRAINT freetier_moves CHECK (CASE kind
    WHEN 'seed' THEN balance_change >= 0 AND reserved_change = 0 AND used_change = 0
    WHEN 'credit' THEN balance_change BETWEEN 0 AND paid_sats
      AND reserved_change = 0 AND used_change = 0
    WHEN 'donation' THEN balance_change > 0 AND reserved_change = 0 AND used_change = 0
    WHEN 'adjustment' THEN balance_change <> 0 AND reserved_change = 0 AND used_change = 0
    WHEN 'reserve' THEN balance_change = 0 AND reserved_change = absorb_sats
      AND used_change = absorb_sats
    WHEN 'grant' THEN balance_change = -absorb_sats AND reserved_change = 0
      AND used_change = absorb_sats
    WHEN 'settle' THEN balance_change = -absorb_sats AND reserved_change < 0
      AND used_change = absorb_sats + reserved_change
    WHEN 'release' THEN balance_change = 0 AND reserved_change < 0
      AND used_change = reserved_change AND absorb_sats = 0
    WHEN 'expire' THEN balance_change = 0 AND reserved_change < 0 AND used_change = 0
      AND absorb_sats = 0
    WHEN 'late' THEN balance_change = -absorb_sats AND reserved_change = 0
    END),
  -- A draw pays the whole price, on the day of its time. A settlement gives back, never takes; it
  -- charges the caller only once the pool's part is used up, and overruns only above the price.
  CONSTRAINT freetier_prices CHECK (CASE
    WHEN kind IN ('reserve', 'grant') THEN absorb_sats > 0
      AND absorb_sats + charge_sats = price_sats AND day = at_us / 86400000000
    WHEN kind IN ('settle', 'late') THEN used_change <= 0
      AND (charge_sats = 0 OR used_change = -coalesce(uncovered_sats, 0))
      AND (overrun_sats = 0
        OR absorb_sats + charge_sats + coalesce(uncovered_sats, 0) = price_sats)
    ELSE 1 END)
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
  -- An ending lowers counters that its draw made; the 0 only satisfies the CHECK on the way.
  INSERT INTO freetier_usage (pool, day, scope, name, used_sats)
    SELECT NEW.pool, NEW.day, scope, name, max(NEW.used_change, 0)
    FROM (SELECT 'identity' AS scope, NEW.identity AS name
          UNION ALL SELECT 'tier', NEW.tier UNION ALL SELECT 'pool', '')
    WHERE NEW.used_change <> 0
    ON CONFLICT (pool, day, scope, name) DO UPDATE SET used_sats = used_sats + NEW.used_change;
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

-- A pool begins empty, once; REPLACE would begin it again.
CREATE TRIGGER freetier_pool_begins BEFORE INSERT ON freetier_pool
WHEN EXISTS (SELECT 1 FROM freetier_pool AS p WHERE p.pool = NEW.pool)
  OR (NEW.seq, NEW.at_us, NEW.balance_sats, NEW.reserved_sats, NEW.credit_carry, NEW.seed_sats,
    NEW.credit_sats, NEW.donation_sats, NEW.adjustment_sats, NEW.reserve_sats, NEW.grant_sats,
    NEW.settle_sats, NEW.release_sats, NEW.expire_sats, NEW.late_sats)
    <> (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
BEGIN
  SELECT RAISE(ABORT, 'freetier: a pool begins empty, once');
END;

CREATE TRIGGER freetier_pool_stays BEFORE DELETE ON freetier_pool
BEGIN
  SELECT RAISE(ABORT, 'freetier: the pool follows its journal');
END;

INSERT INTO freetier_pool (pool) VALUES ('main');

INSERT INTO freetier_schema (one, version) VALUES (1, 1);
