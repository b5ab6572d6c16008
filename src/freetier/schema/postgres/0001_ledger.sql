-- The ledger: one table of facts, the tables that follow from it, and the guard.
--
-- A statement ends with a semicolon at the end of a line that an empty line (or the end) follows.
-- The quoted name of the schema, which has no `$`, takes the place of the word in braces; no name
-- depends on a search_path. Money is sats, times are microseconds since 1970, days are days since 1970, shares
-- are basis points. Text is compared byte by byte, so that it sorts the same on every server.
--
-- Two kinds of no. RETURN NULL refuses an entry that came too late (a known key, a limit used up
-- meanwhile): no row, no error. RAISE fails an entry that could never have been right. The guard
-- says both: the tables that it alone writes have no CHECKs, because Postgres would parse them anew
-- for each statement, and that takes longer than everything else that an entry costs.

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
  credit_carry     BIGINT NOT NULL DEFAULT 0,
  seed_sats        BIGINT NOT NULL DEFAULT 0,
  credit_sats      BIGINT NOT NULL DEFAULT 0,
  donation_sats    BIGINT NOT NULL DEFAULT 0,
  adjustment_sats  BIGINT NOT NULL DEFAULT 0,
  reserve_sats     BIGINT NOT NULL DEFAULT 0,
  grant_sats       BIGINT NOT NULL DEFAULT 0,
  settle_sats      BIGINT NOT NULL DEFAULT 0,
  release_sats     BIGINT NOT NULL DEFAULT 0,
  expire_sats      BIGINT NOT NULL DEFAULT 0,
  late_sats        BIGINT NOT NULL DEFAULT 0
) WITH (
  fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

INSERT INTO {schema}.freetier_pool (pool) VALUES ('main');

-- What was drawn on a day: by each identity, by each tier, and by everybody (scope 'pool').
CREATE TABLE {schema}.freetier_usage (
  pool      TEXT COLLATE "C" NOT NULL,
  day       BIGINT NOT NULL,
  scope     TEXT COLLATE "C" NOT NULL,
  name      TEXT COLLATE "C" NOT NULL,
  used_sats BIGINT NOT NULL,
  PRIMARY KEY (pool, day, scope, name)
) WITH (fillfactor = 70);

-- The grants that hold sats, the first to expire first. Small: as many rows as open grants, and
-- swept often, because every grant comes and goes.
CREATE TABLE {schema}.freetier_open (
  pool          TEXT COLLATE "C" NOT NULL,
  expires_at_us BIGINT NOT NULL,
  key           TEXT COLLATE "C" NOT NULL,
  absorb_sats   BIGINT NOT NULL,
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

-- Not by pool: a plan that was made while there were no gates would look for a key through all.
CREATE INDEX freetier_gate_day ON {schema}.freetier_gate (day, price_sats);

-- The facts. `once` is what there is only one of under a key: one draw, one ending, one of each
-- other kind. The guard fills it in, and with it seq and the totals after the entry.
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
  once              TEXT COLLATE "C" NOT NULL,
  -- In this order, since of a table that it has no figures of, Postgres takes a pool for a small part:
  -- by (pool, seq) it would look for a key among all entries, and keep that plan as they grow.
  PRIMARY KEY (seq, pool)
);

CREATE UNIQUE INDEX freetier_journal_once ON {schema}.freetier_journal (pool, key, once);

-- The guard. RETURN NULL undoes nothing, so it looks at everything first and writes last. It looks
-- with statements of its own, once it has the pool's row: what the INSERT itself read may be from
-- before it waited. Each entry of one INSERT sees what those before it did.
--
-- Locks come in one order: the pool's row, then the request id. A gate takes the request id alone,
-- and so waits for nobody but those who answer the same request.
-- Above READ COMMITTED an entry that was not the first since its transaction began to read is a
-- serialization failure; but a gate and a draw of one request may not see each other there.
--
-- It runs with its owner's rights. So a role that may use the schema, read its tables and insert
-- entries and gates can do all that the library does, and cannot move a sat in any other way. It
-- runs with a search_path of its own, so that nobody's objects stand in for those of Postgres;
-- without scans: a plan that was made for a short journal is kept when the journal is long; and
-- under the setting by which the tables that follow know it.
CREATE FUNCTION {schema}.freetier_journal_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET freetier.writer = 'guard'
AS $$
DECLARE
  p           {schema}.freetier_pool;
  is_draw     BOOLEAN := NEW.kind IN ('reserve', 'grant');
  is_ending   BOOLEAN := NEW.kind IN ('settle', 'release', 'expire');
  is_right    BOOLEAN;
  is_known    BOOLEAN;
  by_identity BIGINT;
  by_tier     BIGINT;
  by_all      BIGINT;
  rest        BIGINT;
  due_us      BIGINT;
BEGIN
  -- On a table of somebody else's it would move the pool from there.
  IF TG_RELID <> CAST($table${schema}.freetier_journal$table$ AS regclass) THEN
    RAISE insufficient_privilege USING MESSAGE = 'freetier: this guard is of its own table';
  END IF;
  -- 1. Right in itself: the figures that its kind has and no others, moving what its kind moves
  -- (the table in docs/explanation/design.md). A figure that is missing makes a comparison NULL.
  IF is_draw THEN
    -- It pays the whole price.
    NEW.once := 'draw';
    is_right := NEW.absorb_sats > 0 AND NEW.charge_sats >= 0
      AND NEW.absorb_sats + NEW.charge_sats = NEW.price_sats
      AND NEW.price_sats <= 2100000000000000
      AND NEW.balance_change = CASE NEW.kind WHEN 'grant' THEN -NEW.absorb_sats ELSE 0 END
      AND NEW.reserved_change = CASE NEW.kind WHEN 'reserve' THEN NEW.absorb_sats ELSE 0 END
      AND NEW.used_change = NEW.absorb_sats
      AND length(NEW.identity) BETWEEN 1 AND 256 AND length(NEW.tier) BETWEEN 1 AND 256
      AND NEW.day IS NOT NULL AND NEW.budget_sats IS NOT NULL AND NEW.floor_sats >= 0
      AND coalesce(NEW.pool_share_bp, 0) BETWEEN 0 AND 10000
      AND left(NEW.rooms, 1) = '{' AND right(NEW.rooms, 1) = '}'
      AND coalesce(NEW.resets_at_us, 0) BETWEEN 0 AND 253402300799999999
      AND coalesce(NEW.expires_at_us, 0) BETWEEN 0 AND 253402300799999999
      AND (NEW.kind = 'reserve') = (NEW.expires_at_us IS NOT NULL)
      AND coalesce(NEW.refund_sats, NEW.overrun_sats, NEW.uncovered_sats, NEW.paid_sats,
        NEW.credit_share_bp, NEW.credit_carry) IS NULL
      AND coalesce(NEW.sponsor, NEW.note) IS NULL;
  ELSIF is_ending OR NEW.kind = 'late' THEN
    -- A settlement gives back, never takes; it charges the caller only once the pool's part is used
    -- up, and overruns only above the price.
    NEW.once := CASE WHEN is_ending THEN 'ending' ELSE 'late' END;
    is_right := NEW.balance_change = -NEW.absorb_sats
      AND CASE
        WHEN NEW.kind IN ('release', 'expire') THEN NEW.absorb_sats = 0
          AND coalesce(NEW.charge_sats, NEW.refund_sats, NEW.overrun_sats) IS NULL
        ELSE NEW.absorb_sats >= 0 AND NEW.used_change <= 0
          AND NEW.charge_sats >= 0 AND NEW.refund_sats >= 0 AND NEW.overrun_sats >= 0
          AND (NEW.charge_sats = 0 OR NEW.used_change = -coalesce(NEW.uncovered_sats, 0))
          AND (NEW.overrun_sats = 0 OR NEW.price_sats
            = NEW.absorb_sats + NEW.charge_sats + coalesce(NEW.uncovered_sats, 0)) END
      AND CASE
        WHEN is_ending THEN NEW.reserved_change < 0
          AND NEW.used_change
            = CASE NEW.kind WHEN 'expire' THEN 0 ELSE NEW.absorb_sats + NEW.reserved_change END
          AND coalesce(NEW.uncovered_sats, NEW.floor_sats) IS NULL
        ELSE NEW.reserved_change = 0 AND NEW.uncovered_sats >= 0 AND NEW.floor_sats >= 0 END
      AND coalesce(NEW.budget_sats, NEW.tier_ceiling_sats, NEW.release_sats, NEW.pool_share_bp,
        NEW.resets_at_us, NEW.expires_at_us, NEW.paid_sats, NEW.credit_share_bp,
        NEW.credit_carry) IS NULL
      AND coalesce(NEW.bound_by, NEW.rooms, NEW.sponsor, NEW.note) IS NULL;
  ELSE
    NEW.once := NEW.kind;
    is_right := NEW.reserved_change = 0 AND NEW.used_change = 0
      AND CASE NEW.kind
        WHEN 'seed' THEN NEW.balance_change >= 0 AND NEW.key = 'seed'
        WHEN 'credit' THEN NEW.paid_sats BETWEEN 1 AND 2100000000000000
          AND NEW.credit_share_bp BETWEEN 0 AND 10000
        WHEN 'donation' THEN NEW.balance_change > 0
        WHEN 'adjustment' THEN NEW.balance_change <> 0 END
      AND (NEW.kind = 'credit'
        OR coalesce(NEW.paid_sats, NEW.credit_share_bp, NEW.credit_carry) IS NULL)
      AND (NEW.kind IN ('donation', 'adjustment') OR coalesce(NEW.sponsor, NEW.note) IS NULL)
      AND coalesce(NEW.day, NEW.price_sats, NEW.absorb_sats, NEW.charge_sats, NEW.refund_sats,
        NEW.overrun_sats, NEW.uncovered_sats, NEW.budget_sats, NEW.tier_ceiling_sats,
        NEW.release_sats, NEW.floor_sats, NEW.pool_share_bp, NEW.resets_at_us,
        NEW.expires_at_us) IS NULL
      AND coalesce(NEW.identity, NEW.tier, NEW.bound_by, NEW.rooms) IS NULL;
  END IF;
  -- No time is beyond the year 8999, so that what follows from one still has a date.
  IF (is_right AND length(NEW.key) BETWEEN 1 AND 256
    AND NEW.at_us BETWEEN 0 AND 221845391999999999) IS NOT TRUE
  THEN
    RAISE check_violation USING MESSAGE = concat('freetier: no ', NEW.kind, ' has such figures');
  END IF;
  -- 2. Next in line, not back in time, meeting the totals before it.
  SELECT * INTO p FROM {schema}.freetier_pool AS l WHERE l.pool = NEW.pool FOR UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  NEW.seq := p.seq + 1;
  IF NEW.at_us < p.at_us THEN
    NEW.at_us := p.at_us;
  END IF;
  -- Time does not come back, so only the owner's own sessions move it ahead of the server's clock;
  -- anybody's entry may be of the time that the journal has come to.
  IF NEW.at_us > p.at_us
    AND NEW.at_us > extract(epoch FROM clock_timestamp()) * 1000000 + 60000000
    AND NOT pg_has_role(session_user, current_user, 'USAGE')
  THEN
    RAISE check_violation USING MESSAGE = 'freetier: an entry of the future';
  END IF;
  -- A credit: exactly the share, with the remainder of all credits before it.
  IF NEW.kind = 'credit' THEN
    rest := mod(NEW.paid_sats, 10000) * NEW.credit_share_bp + p.credit_carry;
    NEW.balance_change := NEW.paid_sats / 10000 * NEW.credit_share_bp + rest / 10000;
    NEW.credit_carry := mod(rest, 10000);
    p.credit_carry := NEW.credit_carry;
  END IF;
  NEW.balance_sats := p.balance_sats + NEW.balance_change;
  NEW.reserved_sats := p.reserved_sats + NEW.reserved_change;
  -- Within what the pool has, and what there is.
  IF NEW.reserved_sats < 0 OR NEW.reserved_sats > NEW.balance_sats
    OR NEW.balance_sats > 2100000000000000
  THEN
    RETURN NULL;
  END IF;
  -- 3. Once, and within what its kind is bound by.
  IF is_draw THEN
    -- On its own day, within the floor and the share.
    IF NEW.day <> NEW.at_us / 86400000000
      OR NEW.expires_at_us <= NEW.at_us
      OR NEW.balance_sats - NEW.reserved_sats < NEW.floor_sats
      OR NEW.absorb_sats > (p.balance_sats - p.reserved_sats) / 10000 * NEW.pool_share_bp
        + mod(p.balance_sats - p.reserved_sats, 10000) * NEW.pool_share_bp / 10000
    THEN
      RETURN NULL;
    END IF;
    -- Not drawn for or gated before, within the three caps of the day.
    PERFORM pg_advisory_xact_lock(
      hashtextextended(TG_TABLE_SCHEMA || ' ' || NEW.pool || ' ' || NEW.key, 0));
    SELECT
      EXISTS (
        SELECT FROM {schema}.freetier_journal AS j
        WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = 'draw')
      OR EXISTS (
        SELECT FROM {schema}.freetier_gate AS n WHERE n.pool = NEW.pool AND n.key = NEW.key),
      (SELECT u.used_sats FROM {schema}.freetier_usage AS u WHERE u.pool = NEW.pool
        AND u.day = NEW.day AND u.scope = 'identity' AND u.name = NEW.identity),
      (SELECT u.used_sats FROM {schema}.freetier_usage AS u WHERE u.pool = NEW.pool
        AND u.day = NEW.day AND u.scope = 'tier' AND u.name = NEW.tier),
      (SELECT u.used_sats FROM {schema}.freetier_usage AS u WHERE u.pool = NEW.pool
        AND u.day = NEW.day AND u.scope = 'pool' AND u.name = '')
    INTO is_known, by_identity, by_tier, by_all;
    IF is_known
      OR coalesce(by_identity, 0) + NEW.used_change > NEW.budget_sats
      OR coalesce(by_tier, 0) + NEW.used_change > NEW.tier_ceiling_sats
      OR coalesce(by_all, 0) + NEW.used_change > NEW.release_sats
    THEN
      RETURN NULL;
    END IF;
  ELSIF is_ending THEN
    -- Of a held grant, on the right side of its expiry, in that grant's own figures.
    SELECT g.expires_at_us INTO due_us FROM {schema}.freetier_journal AS g
    WHERE g.pool = NEW.pool AND g.key = NEW.key AND g.once = 'draw' AND g.kind = 'reserve'
      AND g.identity = NEW.identity AND g.tier = NEW.tier AND g.day = NEW.day
      AND g.price_sats = NEW.price_sats AND g.absorb_sats = -NEW.reserved_change
      AND (NEW.kind = 'expire') = (NEW.at_us >= g.expires_at_us)
      AND (NEW.kind <> 'settle' OR NEW.charge_sats + NEW.refund_sats = g.charge_sats)
      AND NOT EXISTS (
        SELECT FROM {schema}.freetier_journal AS e
        WHERE e.pool = NEW.pool AND e.key = NEW.key AND e.once = 'ending');
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
  ELSIF NEW.kind = 'late' THEN
    -- Of an expired grant, in its figures, within what the pool has above the floor.
    IF (NEW.absorb_sats > 0 AND NEW.balance_sats - NEW.reserved_sats < NEW.floor_sats)
      OR NOT EXISTS (
        SELECT FROM {schema}.freetier_journal AS g
        WHERE g.pool = NEW.pool AND g.key = NEW.key AND g.once = 'draw' AND g.kind = 'reserve'
          AND g.identity = NEW.identity AND g.tier = NEW.tier AND g.day = NEW.day
          AND g.price_sats = NEW.price_sats AND g.absorb_sats = NEW.absorb_sats - NEW.used_change
          AND g.absorb_sats >= NEW.absorb_sats + NEW.uncovered_sats
          AND g.charge_sats = NEW.charge_sats + NEW.refund_sats)
      OR NOT EXISTS (
        SELECT FROM {schema}.freetier_journal AS e
        WHERE e.pool = NEW.pool AND e.key = NEW.key AND e.once = 'ending' AND e.kind = 'expire')
      OR EXISTS (
        SELECT FROM {schema}.freetier_journal AS j
        WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = 'late')
    THEN
      RETURN NULL;
    END IF;
  ELSIF EXISTS (
    SELECT FROM {schema}.freetier_journal AS j
    WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = NEW.kind)
  THEN
    RETURN NULL;
  END IF;
  -- 4. Accepted: what follows from it.
  CASE NEW.kind
    WHEN 'reserve' THEN p.reserve_sats := p.reserve_sats + NEW.reserved_change;
    WHEN 'grant' THEN p.grant_sats := p.grant_sats - NEW.balance_change;
    WHEN 'settle' THEN p.settle_sats := p.settle_sats - NEW.balance_change;
    WHEN 'release' THEN p.release_sats := p.release_sats - NEW.reserved_change;
    WHEN 'expire' THEN p.expire_sats := p.expire_sats - NEW.reserved_change;
    WHEN 'late' THEN p.late_sats := p.late_sats - NEW.balance_change;
    WHEN 'seed' THEN p.seed_sats := p.seed_sats + NEW.balance_change;
    WHEN 'credit' THEN p.credit_sats := p.credit_sats + NEW.balance_change;
    WHEN 'donation' THEN p.donation_sats := p.donation_sats + NEW.balance_change;
    WHEN 'adjustment' THEN p.adjustment_sats := p.adjustment_sats + NEW.balance_change;
  END CASE;
  IF NEW.balance_sats <> p.seed_sats + p.credit_sats + p.donation_sats + p.adjustment_sats
    - p.grant_sats - p.settle_sats - p.late_sats
  THEN
    RAISE check_violation USING MESSAGE = 'freetier: the pool did not follow its journal';
  END IF;
  UPDATE {schema}.freetier_pool AS l SET
    seq = NEW.seq, at_us = NEW.at_us,
    balance_sats = NEW.balance_sats, reserved_sats = NEW.reserved_sats,
    credit_carry = p.credit_carry, seed_sats = p.seed_sats, credit_sats = p.credit_sats,
    donation_sats = p.donation_sats, adjustment_sats = p.adjustment_sats,
    reserve_sats = p.reserve_sats, grant_sats = p.grant_sats, settle_sats = p.settle_sats,
    release_sats = p.release_sats, expire_sats = p.expire_sats, late_sats = p.late_sats
  WHERE l.pool = NEW.pool;
  -- An ending lowers the counters that its draw made.
  IF NEW.used_change <> 0 THEN
    INSERT INTO {schema}.freetier_usage AS u (pool, day, scope, name, used_sats) VALUES
      (NEW.pool, NEW.day, 'identity', NEW.identity, NEW.used_change),
      (NEW.pool, NEW.day, 'tier', NEW.tier, NEW.used_change),
      (NEW.pool, NEW.day, 'pool', '', NEW.used_change)
    ON CONFLICT (pool, day, scope, name) DO UPDATE SET used_sats = u.used_sats + NEW.used_change;
  END IF;
  IF NEW.kind = 'reserve' THEN
    INSERT INTO {schema}.freetier_open (pool, expires_at_us, key, absorb_sats)
    VALUES (NEW.pool, NEW.expires_at_us, NEW.key, NEW.absorb_sats);
  ELSIF is_ending THEN
    DELETE FROM {schema}.freetier_open AS o
    WHERE o.pool = NEW.pool AND o.expires_at_us = due_us AND o.key = NEW.key;
  END IF;
  RETURN NEW;
END
$$;

-- Many callers' draws as one row, in order of arrival: an array for each figure, and the answers as
-- arrays of the same order, NULL where a draw was refused; no row where all were. Nothing is kept
-- here; the guard of sets writes the entries. To draw so takes the right to insert here, and to read what is answered.
CREATE VIEW {schema}.freetier_draws AS SELECT
  CAST(NULL AS TEXT) AS pool,
  CAST(NULL AS BIGINT) AS at_us,
  CAST(NULL AS TEXT[]) AS kinds,
  CAST(NULL AS TEXT[]) AS keys,
  CAST(NULL AS TEXT[]) AS identities,
  CAST(NULL AS TEXT[]) AS tiers,
  CAST(NULL AS BIGINT[]) AS days,
  CAST(NULL AS BIGINT[]) AS prices_sats,
  CAST(NULL AS BIGINT[]) AS absorbs_sats,
  CAST(NULL AS BIGINT[]) AS charges_sats,
  CAST(NULL AS BIGINT[]) AS budgets_sats,
  CAST(NULL AS BIGINT[]) AS tier_ceilings_sats,
  CAST(NULL AS BIGINT[]) AS releases_sats,
  CAST(NULL AS BIGINT[]) AS floors_sats,
  CAST(NULL AS BIGINT[]) AS pool_shares_bp,
  CAST(NULL AS TEXT[]) AS bounds_by,
  CAST(NULL AS TEXT[]) AS rooms,
  CAST(NULL AS BIGINT[]) AS resets_at_us,
  CAST(NULL AS BIGINT[]) AS expires_at_us,
  CAST(NULL AS BIGINT[]) AS seqs
WHERE FALSE;

-- The guard of sets: to each draw exactly the answer that it would get from the journal's guard
-- after those before it. It takes the same locks in the same order, reads what all of them need at once,
-- goes through them one by one in memory, and writes what was accepted as sets.
--
-- A draw that could never be right fails them all: each by itself, it would fail alone.
--
-- Plans are made once and kept: one for each batch would cost more than all else. So no table is
-- joined, and each look-up is a subquery for one value, which finds its row by key in any plan.
CREATE FUNCTION {schema}.freetier_draws_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
SET freetier.writer = 'set'
AS $$
DECLARE
  p           {schema}.freetier_pool;
  draw        RECORD;
  is_right    BOOLEAN;
  size        INT;
  today       BIGINT;
  last        BIGINT;
  available   BIGINT;
  held        BIGINT := 0;
  paid        BIGINT := 0;
  by_identity BIGINT[];
  by_tier     BIGINT[];
  by_all      BIGINT;
  drawn       BOOLEAN[];
  seqs        BIGINT[];
  balances    BIGINT[];
  reserved    BIGINT[];
BEGIN
  IF TG_RELID <> CAST($table${schema}.freetier_draws$table$ AS regclass) THEN
    RAISE insufficient_privilege USING MESSAGE = 'freetier: this guard is of its own table';
  END IF;
  -- 1. Each right in itself, as the journal's guard says of a draw.
  SELECT count(*), bool_and((
    d.kind IN ('reserve', 'grant') AND length(d.key) BETWEEN 1 AND 256
    AND d.absorb_sats > 0 AND d.charge_sats >= 0
    AND d.absorb_sats + d.charge_sats = d.price_sats
    AND d.price_sats <= 2100000000000000
    AND length(d.identity) BETWEEN 1 AND 256 AND length(d.tier) BETWEEN 1 AND 256
    AND d.day IS NOT NULL AND d.budget_sats IS NOT NULL AND d.floor_sats >= 0
    AND coalesce(d.pool_share_bp, 0) BETWEEN 0 AND 10000
    AND left(d.rooms, 1) = '{' AND right(d.rooms, 1) = '}'
    AND coalesce(d.resets_at_us, 0) BETWEEN 0 AND 253402300799999999
    AND coalesce(d.expires_at_us, 0) BETWEEN 0 AND 253402300799999999
    AND (d.kind = 'reserve') = (d.expires_at_us IS NOT NULL)) IS TRUE)
  INTO size, is_right
  FROM unnest(
    NEW.kinds, NEW.keys, NEW.identities, NEW.tiers, NEW.days, NEW.prices_sats, NEW.absorbs_sats,
    NEW.charges_sats, NEW.budgets_sats, NEW.floors_sats, NEW.pool_shares_bp, NEW.rooms,
    NEW.resets_at_us, NEW.expires_at_us
  ) AS d (
    kind, key, identity, tier, day, price_sats, absorb_sats, charge_sats, budget_sats, floor_sats,
    pool_share_bp, rooms, resets_at_us, expires_at_us);
  IF (is_right AND NEW.at_us BETWEEN 0 AND 221845391999999999) IS NOT TRUE
    OR cardinality(NEW.bounds_by) > size OR cardinality(NEW.tier_ceilings_sats) > size
    OR cardinality(NEW.releases_sats) > size
  THEN
    RAISE check_violation USING MESSAGE = 'freetier: a draw has no such figures';
  END IF;
  -- 2. Next in line, not back in time, meeting the totals before it.
  SELECT * INTO p FROM {schema}.freetier_pool AS l WHERE l.pool = NEW.pool FOR UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF NEW.at_us < p.at_us THEN
    NEW.at_us := p.at_us;
  END IF;
  IF NEW.at_us > p.at_us
    AND NEW.at_us > extract(epoch FROM clock_timestamp()) * 1000000 + 60000000
    AND NOT pg_has_role(session_user, current_user, 'USAGE')
  THEN
    RAISE check_violation USING MESSAGE = 'freetier: an entry of the future';
  END IF;
  today := NEW.at_us / 86400000000;
  -- 3. Once, and within what it is bound by. What a batch holds of one identity, tier or key, it has
  -- at the place of the first of them.
  PERFORM pg_advisory_xact_lock(
    hashtextextended(TG_TABLE_SCHEMA || ' ' || NEW.pool || ' ' || d.key, 0))
  FROM unnest(NEW.keys) AS d (key);
  by_all := coalesce((SELECT u.used_sats FROM {schema}.freetier_usage AS u
    WHERE u.pool = NEW.pool AND u.day = today AND u.scope = 'pool' AND u.name = ''), 0);
  seqs := array_fill(CAST(NULL AS BIGINT), ARRAY[size]);
  balances := seqs;
  reserved := seqs;
  by_identity := seqs;
  by_tier := seqs;
  drawn := array_fill(FALSE, ARRAY[size]);
  available := p.balance_sats - p.reserved_sats;
  last := p.seq;
  FOR draw IN
    SELECT d.n, d.absorb_sats, d.budget_sats, d.tier_ceiling_sats, d.release_sats, d.floor_sats,
      d.pool_share_bp, d.is_held, d.same_key, d.same_identity, d.same_tier,
      (d.day = today AND (d.expires_at_us > NEW.at_us) IS NOT FALSE
        AND (SELECT j.seq FROM {schema}.freetier_journal AS j
          WHERE j.pool = NEW.pool AND j.key = d.key AND j.once = 'draw') IS NULL
        AND (SELECT n.key FROM {schema}.freetier_gate AS n
          WHERE n.pool = NEW.pool AND n.key = d.key) IS NULL) AS is_new,
      CASE WHEN d.same_identity = d.n THEN coalesce((
        SELECT u.used_sats FROM {schema}.freetier_usage AS u WHERE u.pool = NEW.pool
          AND u.day = today AND u.scope = 'identity' AND u.name = d.identity), 0) END
        AS by_identity,
      CASE WHEN d.same_tier = d.n THEN coalesce((
        SELECT u.used_sats FROM {schema}.freetier_usage AS u WHERE u.pool = NEW.pool
          AND u.day = today AND u.scope = 'tier' AND u.name = d.tier), 0) END
        AS by_tier
    FROM (
      SELECT d.*, d.kind = 'reserve' AS is_held,
        CAST(min(d.n) OVER (PARTITION BY d.key COLLATE "C") AS INT) AS same_key,
        CAST(min(d.n) OVER (PARTITION BY d.identity COLLATE "C") AS INT) AS same_identity,
        CAST(min(d.n) OVER (PARTITION BY d.tier COLLATE "C") AS INT) AS same_tier
      FROM unnest(
        NEW.kinds, NEW.keys, NEW.identities, NEW.tiers, NEW.days, NEW.absorbs_sats,
        NEW.budgets_sats, NEW.tier_ceilings_sats, NEW.releases_sats, NEW.floors_sats,
        NEW.pool_shares_bp, NEW.expires_at_us
      ) WITH ORDINALITY AS d (
        kind, key, identity, tier, day, absorb_sats, budget_sats, tier_ceiling_sats, release_sats,
        floor_sats, pool_share_bp, expires_at_us, n)
    ) AS d
    ORDER BY d.n
  LOOP
    IF draw.by_identity IS NOT NULL THEN
      by_identity[draw.n] := draw.by_identity;
    END IF;
    IF draw.by_tier IS NOT NULL THEN
      by_tier[draw.n] := draw.by_tier;
    END IF;
    IF draw.is_new AND NOT drawn[draw.same_key]
      AND available - draw.absorb_sats >= draw.floor_sats
      AND (draw.absorb_sats > available / 10000 * draw.pool_share_bp
        + mod(available, 10000) * draw.pool_share_bp / 10000) IS NOT TRUE
      AND by_identity[draw.same_identity] + draw.absorb_sats <= draw.budget_sats
      AND (by_tier[draw.same_tier] + draw.absorb_sats > draw.tier_ceiling_sats) IS NOT TRUE
      AND (by_all + draw.absorb_sats > draw.release_sats) IS NOT TRUE
    THEN
      IF draw.is_held THEN
        held := held + draw.absorb_sats;
      ELSE
        paid := paid + draw.absorb_sats;
      END IF;
      available := available - draw.absorb_sats;
      drawn[draw.same_key] := TRUE;
      by_identity[draw.same_identity] := by_identity[draw.same_identity] + draw.absorb_sats;
      by_tier[draw.same_tier] := by_tier[draw.same_tier] + draw.absorb_sats;
      by_all := by_all + draw.absorb_sats;
      last := last + 1;
      seqs[draw.n] := last;
      balances[draw.n] := p.balance_sats - paid;
      reserved[draw.n] := p.reserved_sats + held;
    END IF;
  END LOOP;
  IF last = p.seq THEN
    RETURN NULL;
  END IF;
  NEW.seqs := seqs;
  -- 4. What follows from those accepted, the pool first.
  p.balance_sats := p.balance_sats - paid;
  p.reserved_sats := p.reserved_sats + held;
  p.reserve_sats := p.reserve_sats + held;
  p.grant_sats := p.grant_sats + paid;
  IF p.balance_sats <> p.seed_sats + p.credit_sats + p.donation_sats + p.adjustment_sats
    - p.grant_sats - p.settle_sats - p.late_sats
  THEN
    RAISE check_violation USING MESSAGE = 'freetier: the pool did not follow its journal';
  END IF;
  UPDATE {schema}.freetier_pool AS l SET
    seq = last, at_us = NEW.at_us,
    balance_sats = p.balance_sats, reserved_sats = p.reserved_sats,
    reserve_sats = p.reserve_sats, grant_sats = p.grant_sats
  WHERE l.pool = NEW.pool;
  INSERT INTO {schema}.freetier_journal (
    pool, seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats, charge_sats,
    budget_sats, tier_ceiling_sats, release_sats, floor_sats, pool_share_bp,
    bound_by, rooms, resets_at_us, expires_at_us,
    balance_change, reserved_change, used_change, balance_sats, reserved_sats, once)
  SELECT NEW.pool, d.seq, d.kind, d.key, NEW.at_us, d.identity, d.tier, today, d.price_sats,
    d.absorb_sats, d.charge_sats, d.budget_sats, d.tier_ceiling_sats, d.release_sats,
    d.floor_sats, d.pool_share_bp, d.bound_by, d.rooms, d.resets_at_us, d.expires_at_us,
    CASE d.kind WHEN 'grant' THEN -d.absorb_sats ELSE 0 END,
    CASE d.kind WHEN 'reserve' THEN d.absorb_sats ELSE 0 END,
    d.absorb_sats, d.balance_sats, d.reserved_sats, 'draw'
  FROM unnest(
    NEW.kinds, NEW.keys, NEW.identities, NEW.tiers, NEW.prices_sats, NEW.absorbs_sats,
    NEW.charges_sats, NEW.budgets_sats, NEW.tier_ceilings_sats, NEW.releases_sats,
    NEW.floors_sats, NEW.pool_shares_bp, NEW.bounds_by, NEW.rooms, NEW.resets_at_us,
    NEW.expires_at_us, seqs, balances, reserved
  ) AS d (
    kind, key, identity, tier, price_sats, absorb_sats, charge_sats, budget_sats,
    tier_ceiling_sats, release_sats, floor_sats, pool_share_bp, bound_by, rooms, resets_at_us,
    expires_at_us, seq, balance_sats, reserved_sats)
  WHERE d.seq IS NOT NULL;
  -- Another trigger that took an entry away left a gap.
  GET DIAGNOSTICS size = ROW_COUNT;
  IF p.seq + size <> last THEN
    RAISE check_violation USING MESSAGE = 'freetier: the journal did not take its entries';
  END IF;
  INSERT INTO {schema}.freetier_usage AS u (pool, day, scope, name, used_sats)
  SELECT NEW.pool, today,
    CASE grouping(d.identity, d.tier) WHEN 1 THEN 'identity' WHEN 2 THEN 'tier' ELSE 'pool' END,
    coalesce(d.identity, d.tier, ''), CAST(sum(d.absorb_sats) AS BIGINT)
  FROM (
    SELECT d.identity COLLATE "C" AS identity, d.tier COLLATE "C" AS tier, d.absorb_sats
    FROM unnest(NEW.identities, NEW.tiers, NEW.absorbs_sats, seqs)
      AS d (identity, tier, absorb_sats, seq)
    WHERE d.seq IS NOT NULL
  ) AS d
  GROUP BY GROUPING SETS (d.identity, d.tier, ())
  ON CONFLICT (pool, day, scope, name)
  DO UPDATE SET used_sats = u.used_sats + excluded.used_sats;
  IF held > 0 THEN
    INSERT INTO {schema}.freetier_open (pool, expires_at_us, key, absorb_sats)
    SELECT NEW.pool, d.expires_at_us, d.key, d.absorb_sats
    FROM unnest(NEW.kinds, NEW.keys, NEW.absorbs_sats, NEW.expires_at_us, seqs)
      AS d (kind, key, absorb_sats, expires_at_us, seq)
    WHERE d.kind = 'reserve' AND d.seq IS NOT NULL;
  END IF;
  RETURN NEW;
END
$$;

-- What the guard of sets has looked at need not meet the journal's guard as well. It says so by a
-- setting and by filling in `once`, as anybody may; the proof is that the pool has counted the entry
-- already. Of every other entry that was counted there is a row with its seq, which the primary key
-- refuses to have twice. So whoever says so of an entry of their own gets an error for it at most;
-- and should a host's trigger have dropped a row, only those who may hang triggers there fill its place.
-- STABLE: it sees the pool as of the statement's start, not as an earlier entry of it left the pool.
CREATE FUNCTION {schema}.freetier_journal_counted() RETURNS trigger
LANGUAGE plpgsql STABLE
AS $$
BEGIN
  -- A search_path of its own would cost each entry more than it is worth; so all is named in full.
  IF (pg_catalog.current_setting('freetier.writer', true) OPERATOR(pg_catalog.=) 'set'
    AND pg_catalog.has_table_privilege(TG_RELID, 'TRIGGER')
    AND NEW.seq OPERATOR(pg_catalog.>) 0
    AND NEW.seq OPERATOR(pg_catalog.<=) (
      SELECT p.seq FROM {schema}.freetier_pool AS p
      WHERE p.pool OPERATOR(pg_catalog.=) NEW.pool)) IS NOT TRUE
  THEN
    NEW.once := NULL;
  END IF;
  RETURN NEW;
END
$$;

-- One answer a request: a gate is noted once, never for a request that was drawn for, and stands.
CREATE FUNCTION {schema}.freetier_gate_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
BEGIN
  IF TG_RELID <> CAST($table${schema}.freetier_gate$table$ AS regclass) THEN
    RAISE insufficient_privilege USING MESSAGE = 'freetier: this guard is of its own table';
  END IF;
  -- The lock that a draw for this request takes.
  PERFORM pg_advisory_xact_lock(
    hashtextextended(TG_TABLE_SCHEMA || ' ' || NEW.pool || ' ' || NEW.key, 0));
  IF EXISTS (
      SELECT FROM {schema}.freetier_gate AS n WHERE n.pool = NEW.pool AND n.key = NEW.key)
    OR EXISTS (
      SELECT FROM {schema}.freetier_journal AS j
      WHERE j.pool = NEW.pool AND j.key = NEW.key AND j.once = 'draw')
  THEN
    RETURN NULL;
  END IF;
  RETURN NEW;
END
$$;

-- Nobody needs to call the guards, or to hang them anywhere.
REVOKE ALL ON FUNCTION {schema}.freetier_journal_guard(), {schema}.freetier_gate_guard(),
  {schema}.freetier_draws_guard()
FROM PUBLIC;

-- Run in the order of their names. What comes without `once`, as all comes but from the guard of
-- sets, costs no call more. Postgres reads conditions anew for each statement: so these are short.
CREATE TRIGGER freetier_journal_counted BEFORE INSERT ON {schema}.freetier_journal
FOR EACH ROW WHEN (NEW.once IS NOT NULL) EXECUTE FUNCTION {schema}.freetier_journal_counted();

CREATE TRIGGER freetier_journal_guard BEFORE INSERT ON {schema}.freetier_journal
FOR EACH ROW WHEN (NEW.once IS NULL) EXECUTE FUNCTION {schema}.freetier_journal_guard();

CREATE TRIGGER freetier_draws_guard INSTEAD OF INSERT ON {schema}.freetier_draws
FOR EACH ROW EXECUTE FUNCTION {schema}.freetier_draws_guard();

CREATE TRIGGER freetier_gate_guard BEFORE INSERT ON {schema}.freetier_gate
FOR EACH ROW EXECUTE FUNCTION {schema}.freetier_gate_guard();

CREATE FUNCTION {schema}.freetier_stays() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE integrity_constraint_violation USING MESSAGE = 'freetier: ' || TG_ARGV[0];
END
$$;

CREATE TRIGGER freetier_journal_stays BEFORE UPDATE OR DELETE OR TRUNCATE
ON {schema}.freetier_journal FOR EACH STATEMENT
EXECUTE FUNCTION {schema}.freetier_stays('the journal is append-only');

CREATE TRIGGER freetier_gate_stays BEFORE UPDATE OR TRUNCATE
ON {schema}.freetier_gate FOR EACH STATEMENT
EXECUTE FUNCTION {schema}.freetier_stays('a gate that was noted stands');

-- The tables that follow from the journal are written by its guards alone: in a trigger, and under
-- the setting that each guard makes for itself. That is against mistakes, in a host's own triggers
-- too, of those who may write these tables; other roles have no right to.
CREATE FUNCTION {schema}.freetier_follows() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
  -- A search_path of its own would cost each entry more than it is worth; so all is named in full.
  IF pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.>) 1
    AND pg_catalog.current_setting('freetier.writer', true) OPERATOR(pg_catalog.=)
      ANY ('{guard,set}')
  THEN
    RETURN NULL;
  END IF;
  RAISE integrity_constraint_violation
    USING MESSAGE = pg_catalog.concat('freetier: ', TG_TABLE_NAME, ' follows the journal');
END
$$;

CREATE TRIGGER freetier_pool_follows BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
ON {schema}.freetier_pool FOR EACH STATEMENT EXECUTE FUNCTION {schema}.freetier_follows();

CREATE TRIGGER freetier_usage_follows BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
ON {schema}.freetier_usage FOR EACH STATEMENT EXECUTE FUNCTION {schema}.freetier_follows();

CREATE TRIGGER freetier_open_follows BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
ON {schema}.freetier_open FOR EACH STATEMENT EXECUTE FUNCTION {schema}.freetier_follows();

INSERT INTO {schema}.freetier_schema (one, version) VALUES (1, 1);
