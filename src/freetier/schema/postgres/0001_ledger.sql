-- The ledger: one table of facts, the tables that follow from it, and the guard.
--
-- A statement ends with a semicolon at the end of a line that an empty line (or the end) follows.
-- {schema} stands for the quoted name of the schema; no name depends on a search_path. Money is
-- sats, times are microseconds since 1970, days are days since 1970, shares are basis points.
-- Text is compared byte by byte, so that it sorts the same on every server. Two kinds of no: a
-- guard that returns NULL refuses an entry that came too late (a known key, a limit used up
-- meanwhile): no row, no error. A CHECK fails an entry that could never have been right.

CREATE TABLE {schema}.freetier_schema (
  one     BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
  version BIGINT NOT NULL
);

-- The pool: what its journal adds up to, as of entry `seq`. One total for each kind of entry.
-- Every entry updates the row: its page is kept for its versions, and swept often.
CREATE TABLE {schema}.freetier_pool (
  pool             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  seq              BIGINT NOT NULL DEFAULT 0,
  at_us            BIGINT NOT NULL DEFAULT 0,
  balance_sats     BIGINT NOT NULL DEFAULT 0,
  reserved_sats    BIGINT NOT NULL DEFAULT 0,
  credit_carry     BIGINT NOT NULL DEFAULT 0 CHECK (credit_carry BETWEEN 0 AND 9999),
  seed_sats        BIGINT NOT NULL DEFAULT 0,
  credit_sats      BIGINT NOT NULL DEFAULT 0,
  donation_sats    BIGINT NOT NULL DEFAULT 0,
  adjustment_sats  BIGINT NOT NULL DEFAULT 0,
  reserve_sats     BIGINT NOT NULL DEFAULT 0,
  grant_sats       BIGINT NOT NULL DEFAULT 0,
  settle_sats      BIGINT NOT NULL DEFAULT 0,
  release_sats     BIGINT NOT NULL DEFAULT 0,
  expire_sats      BIGINT NOT NULL DEFAULT 0,
  late_sats        BIGINT NOT NULL DEFAULT 0,
  CHECK (0 <= reserved_sats AND reserved_sats <= balance_sats AND balance_sats <= 2100000000000000),
  CHECK (balance_sats = seed_sats + credit_sats + donation_sats + adjustment_sats
                        - grant_sats - settle_sats - late_sats)
) WITH (
  fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

INSERT INTO {schema}.freetier_pool (pool) VALUES ('main');

-- What was drawn on a day: by each identity, by each tier, and by everybody (scope 'pool').
CREATE TABLE {schema}.freetier_usage (
  pool      TEXT COLLATE "C" NOT NULL,
  day       BIGINT NOT NULL,
  scope     TEXT COLLATE "C" NOT NULL CHECK (scope IN ('identity', 'tier', 'pool')),
  name      TEXT COLLATE "C" NOT NULL,
  used_sats BIGINT NOT NULL CHECK (used_sats >= 0),
  PRIMARY KEY (pool, day, scope, name)
) WITH (fillfactor = 70);

-- The grants that hold sats, the first to expire first. Small: as many rows as open grants, and
-- swept often, because every grant comes and goes.
CREATE TABLE {schema}.freetier_open (
  pool          TEXT COLLATE "C" NOT NULL,
  expires_at_us BIGINT NOT NULL,
  key           TEXT COLLATE "C" NOT NULL,
  absorb_sats   BIGINT NOT NULL CHECK (absorb_sats > 0),
  PRIMARY KEY (pool, expires_at_us, key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Gates of known identities: unmet demand, and the answer that a retry gets. Rows may be deleted.
CREATE TABLE {schema}.freetier_gate (
  pool         TEXT COLLATE "C" NOT NULL,
  key          TEXT COLLATE "C" NOT NULL,
  at_us        BIGINT NOT NULL,
  day          BIGINT NOT NULL,
  identity     TEXT COLLATE "C" NOT NULL,
  tier         TEXT COLLATE "C" NOT NULL,
  price_sats   BIGINT NOT NULL CHECK (price_sats > 0),
  bound_by     TEXT COLLATE "C" NOT NULL,
  rooms        TEXT COLLATE "C" NOT NULL,
  resets_at_us BIGINT,
  PRIMARY KEY (pool, key)
);

CREATE INDEX freetier_gate_day ON {schema}.freetier_gate (pool, day, price_sats);

-- The facts. The checks say, kind by kind, which figures an entry has and what it moves.
CREATE TABLE {schema}.freetier_journal (
  pool              TEXT COLLATE "C" NOT NULL,
  seq               BIGINT NOT NULL,
  kind              TEXT COLLATE "C" NOT NULL,
  key               TEXT COLLATE "C" NOT NULL,
  at_us             BIGINT NOT NULL,
  identity          TEXT COLLATE "C",
  tier              TEXT COLLATE "C",
  day               BIGINT,
  price_sats        BIGINT,
  absorb_sats       BIGINT,
  charge_sats       BIGINT,
  paid_sats         BIGINT,
  refund_sats       BIGINT,
  overrun_sats      BIGINT,
  uncovered_sats    BIGINT,
  budget_sats       BIGINT,
  tier_ceiling_sats BIGINT,
  release_sats      BIGINT,
  floor_sats        BIGINT,
  pool_share_bp     BIGINT,
  bound_by          TEXT COLLATE "C",
  rooms             TEXT COLLATE "C",
  resets_at_us      BIGINT,
  expires_at_us     BIGINT,
  credit_share_bp   BIGINT,
  credit_carry      BIGINT,
  sponsor           TEXT COLLATE "C",
  note              TEXT COLLATE "C",
  balance_change    BIGINT NOT NULL,
  reserved_change   BIGINT NOT NULL,
  used_change       BIGINT NOT NULL,
  balance_sats      BIGINT NOT NULL,
  reserved_sats     BIGINT NOT NULL,
  -- What there is only one of under a key: one draw, one ending, one of each other kind.
  once              TEXT COLLATE "C" NOT NULL GENERATED ALWAYS AS (CASE
    WHEN kind IN ('reserve', 'grant') THEN 'draw'
    WHEN kind IN ('settle', 'release', 'expire') THEN 'ending'
    ELSE kind END) STORED,
  PRIMARY KEY (pool, seq),
  CONSTRAINT freetier_kind CHECK (kind IN (
    'seed', 'credit', 'donation', 'adjustment',
    'reserve', 'grant', 'settle', 'release', 'expire', 'late')),
  CONSTRAINT freetier_ids CHECK (
    length(key) BETWEEN 1 AND 256
    AND coalesce(length(identity) BETWEEN 1 AND 256, TRUE)
    AND coalesce(length(tier) BETWEEN 1 AND 256, TRUE)
    AND (kind <> 'seed' OR key = 'seed')),
  -- Times end with the year 9999.
  CONSTRAINT freetier_bounds CHECK (
    at_us BETWEEN 0 AND 253402300799999999
    AND coalesce(resets_at_us BETWEEN 0 AND 253402300799999999, TRUE)
    AND coalesce(expires_at_us BETWEEN at_us + 1 AND 253402300799999999, TRUE)
    AND coalesce(price_sats BETWEEN 1 AND 2100000000000000, TRUE)
    AND coalesce(paid_sats BETWEEN 1 AND 2100000000000000, TRUE)
    AND coalesce(absorb_sats >= 0, TRUE)
    AND coalesce(charge_sats >= 0, TRUE) AND coalesce(refund_sats >= 0, TRUE)
    AND coalesce(overrun_sats >= 0, TRUE) AND coalesce(uncovered_sats >= 0, TRUE)
    AND coalesce(floor_sats >= 0, TRUE)
    AND coalesce(pool_share_bp BETWEEN 0 AND 10000, TRUE)
    AND coalesce(credit_share_bp BETWEEN 0 AND 10000, TRUE)
    AND coalesce(credit_carry BETWEEN 0 AND 9999, TRUE)),
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
    AND coalesce(rooms LIKE '{%}', TRUE)),
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
    ELSE TRUE END)
);

CREATE UNIQUE INDEX freetier_journal_once ON {schema}.freetier_journal (pool, key, once);

-- The guard. It takes the pool's row, so that the pool's writers are in line, then looks with
-- statements of its own, because what the INSERT itself read is as of before it waited. RETURN NULL
-- skips the entry but undoes nothing: it looks at everything first and writes last.
--
-- Locks come in one order: the pool's row, then the request id. A gate takes the request id alone.
--
-- The guard has its owner's rights: a role that may only insert entries moves the pool through it.
CREATE FUNCTION {schema}.freetier_journal_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off -- a plan made for an empty journal stays when it has grown
AS $$
DECLARE
  p      {schema}.freetier_pool;
  rest   BIGINT;
  expiry BIGINT;
BEGIN
  SELECT * INTO p FROM {schema}.freetier_pool AS l WHERE l.pool = NEW.pool FOR UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  -- Next in line, not back in time, meeting the totals before it.
  NEW.seq := p.seq + 1;
  IF NEW.at_us < p.at_us THEN
    NEW.at_us := p.at_us;
  END IF;
  -- A credit: exactly the share, with the remainder of all credits before it.
  IF NEW.kind = 'credit' THEN
    rest := NEW.paid_sats % 10000 * NEW.credit_share_bp + p.credit_carry;
    NEW.balance_change := NEW.paid_sats / 10000 * NEW.credit_share_bp + rest / 10000;
    NEW.credit_carry := rest % 10000;
  END IF;
  NEW.balance_sats := p.balance_sats + NEW.balance_change;
  NEW.reserved_sats := p.reserved_sats + NEW.reserved_change;
  -- Within what the pool has.
  IF NEW.reserved_sats < 0 OR NEW.reserved_sats > NEW.balance_sats
    OR NEW.balance_sats > 2100000000000000
  THEN
    RETURN NULL;
  END IF;
  CASE
    -- A draw: on its own day, within the floor and the share; once, not gated before, within the
    -- three day caps.
    WHEN NEW.kind IN ('reserve', 'grant') THEN
      IF NEW.day <> NEW.at_us / 86400000000
        OR NEW.expires_at_us <= NEW.at_us
        OR NEW.balance_sats - NEW.reserved_sats < NEW.floor_sats
        OR NEW.absorb_sats >
          (p.balance_sats - p.reserved_sats) / 10000 * NEW.pool_share_bp
          + (p.balance_sats - p.reserved_sats) % 10000 * NEW.pool_share_bp / 10000
        OR NEW.used_change > NEW.budget_sats
        OR NEW.used_change > NEW.tier_ceiling_sats
        OR NEW.used_change > NEW.release_sats
      THEN
        RETURN NULL;
      END IF;
      PERFORM pg_advisory_xact_lock(hashtextextended(NEW.key, hashtext(TG_TABLE_SCHEMA || '.' || NEW.pool)));
      IF EXISTS (
          SELECT FROM {schema}.freetier_journal AS j
          WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = 'draw')
        OR EXISTS (
          SELECT FROM {schema}.freetier_gate AS g WHERE g.pool = NEW.pool AND g.key = NEW.key)
        OR EXISTS (
          SELECT FROM {schema}.freetier_usage AS u
          WHERE u.pool = NEW.pool AND u.day = NEW.day AND u.scope = 'identity'
            AND u.name = NEW.identity AND u.used_sats + NEW.used_change > NEW.budget_sats)
        OR EXISTS (
          SELECT FROM {schema}.freetier_usage AS u
          WHERE u.pool = NEW.pool AND u.day = NEW.day AND u.scope = 'tier'
            AND u.name = NEW.tier AND u.used_sats + NEW.used_change > NEW.tier_ceiling_sats)
        OR EXISTS (
          SELECT FROM {schema}.freetier_usage AS u
          WHERE u.pool = NEW.pool AND u.day = NEW.day AND u.scope = 'pool'
            AND u.name = '' AND u.used_sats + NEW.used_change > NEW.release_sats)
      THEN
        RETURN NULL;
      END IF;
    -- An ending, once: of a held grant, on the right side of its expiry, in its figures.
    WHEN NEW.kind IN ('settle', 'release', 'expire') THEN
      SELECT g.expires_at_us INTO expiry FROM {schema}.freetier_journal AS g
      WHERE g.pool = NEW.pool AND g.key = NEW.key AND g.once = 'draw' AND g.kind = 'reserve'
        AND NEW.identity = g.identity AND NEW.tier = g.tier AND NEW.day = g.day
        AND NEW.price_sats = g.price_sats AND NEW.reserved_change = -g.absorb_sats
        AND (NEW.kind = 'expire') = (NEW.at_us >= g.expires_at_us)
        AND (NEW.kind <> 'settle' OR NEW.charge_sats + NEW.refund_sats = g.charge_sats)
        AND NOT EXISTS (
          SELECT FROM {schema}.freetier_journal AS e
          WHERE e.pool = NEW.pool AND e.key = NEW.key AND e.once = 'ending');
      IF NOT FOUND THEN
        RETURN NULL;
      END IF;
    -- A late settlement, once: of an expired grant, in its figures, within what the pool has.
    WHEN NEW.kind = 'late' THEN
      IF (NEW.absorb_sats > 0 AND NEW.balance_sats - NEW.reserved_sats < NEW.floor_sats)
        OR NOT EXISTS (
          SELECT FROM {schema}.freetier_journal AS g
          JOIN {schema}.freetier_journal AS e
            ON e.pool = g.pool AND e.key = g.key AND e.once = 'ending' AND e.kind = 'expire'
          WHERE g.pool = NEW.pool AND g.key = NEW.key AND g.once = 'draw' AND g.kind = 'reserve'
            AND NEW.identity = g.identity AND NEW.tier = g.tier AND NEW.day = g.day
            AND NEW.price_sats = g.price_sats AND NEW.used_change = NEW.absorb_sats - g.absorb_sats
            AND NEW.absorb_sats + NEW.uncovered_sats <= g.absorb_sats
            AND NEW.charge_sats + NEW.refund_sats = g.charge_sats)
        OR EXISTS (
          SELECT FROM {schema}.freetier_journal AS j
          WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = 'late')
      THEN
        RETURN NULL;
      END IF;
    -- A deposit, once.
    ELSE
      IF EXISTS (
        SELECT FROM {schema}.freetier_journal AS j
        WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = NEW.kind)
      THEN
        RETURN NULL;
      END IF;
  END CASE;
  -- Accepted: what follows from it.
  PERFORM set_config('freetier.follows', 'on', TRUE);
  UPDATE {schema}.freetier_pool AS l SET
    seq = NEW.seq, at_us = NEW.at_us,
    balance_sats = NEW.balance_sats, reserved_sats = NEW.reserved_sats,
    credit_carry = coalesce(NEW.credit_carry, p.credit_carry),
    seed_sats = p.seed_sats + CASE NEW.kind WHEN 'seed' THEN NEW.balance_change ELSE 0 END,
    credit_sats = p.credit_sats + CASE NEW.kind WHEN 'credit' THEN NEW.balance_change ELSE 0 END,
    donation_sats = p.donation_sats
      + CASE NEW.kind WHEN 'donation' THEN NEW.balance_change ELSE 0 END,
    adjustment_sats = p.adjustment_sats
      + CASE NEW.kind WHEN 'adjustment' THEN NEW.balance_change ELSE 0 END,
    reserve_sats = p.reserve_sats + CASE NEW.kind WHEN 'reserve' THEN NEW.reserved_change ELSE 0 END,
    grant_sats = p.grant_sats - CASE NEW.kind WHEN 'grant' THEN NEW.balance_change ELSE 0 END,
    settle_sats = p.settle_sats - CASE NEW.kind WHEN 'settle' THEN NEW.balance_change ELSE 0 END,
    release_sats = p.release_sats - CASE NEW.kind WHEN 'release' THEN NEW.reserved_change ELSE 0 END,
    expire_sats = p.expire_sats - CASE NEW.kind WHEN 'expire' THEN NEW.reserved_change ELSE 0 END,
    late_sats = p.late_sats - CASE NEW.kind WHEN 'late' THEN NEW.balance_change ELSE 0 END
  WHERE l.pool = NEW.pool;
  -- An ending lowers counters that its draw made; the 0 only satisfies the CHECK on the way.
  IF NEW.used_change <> 0 THEN
    INSERT INTO {schema}.freetier_usage AS u (pool, day, scope, name, used_sats) VALUES
      (NEW.pool, NEW.day, 'identity', NEW.identity, greatest(NEW.used_change, 0)),
      (NEW.pool, NEW.day, 'tier', NEW.tier, greatest(NEW.used_change, 0)),
      (NEW.pool, NEW.day, 'pool', '', greatest(NEW.used_change, 0))
    ON CONFLICT (pool, day, scope, name) DO UPDATE SET used_sats = u.used_sats + NEW.used_change;
  END IF;
  IF NEW.kind = 'reserve' THEN
    INSERT INTO {schema}.freetier_open (pool, expires_at_us, key, absorb_sats)
    VALUES (NEW.pool, NEW.expires_at_us, NEW.key, NEW.absorb_sats);
  ELSIF expiry IS NOT NULL THEN
    DELETE FROM {schema}.freetier_open AS o
    WHERE o.pool = NEW.pool AND o.expires_at_us = expiry AND o.key = NEW.key;
  END IF;
  PERFORM set_config('freetier.follows', '', TRUE);
  RETURN NEW;
END
$$;

CREATE TRIGGER freetier_journal_guard BEFORE INSERT ON {schema}.freetier_journal
FOR EACH ROW EXECUTE FUNCTION {schema}.freetier_journal_guard();
