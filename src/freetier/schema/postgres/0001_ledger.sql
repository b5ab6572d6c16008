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
  PRIMARY KEY (pool, seq)
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
REVOKE ALL ON FUNCTION {schema}.freetier_journal_guard(), {schema}.freetier_gate_guard()
FROM PUBLIC;

CREATE TRIGGER freetier_journal_guard BEFORE INSERT ON {schema}.freetier_journal
FOR EACH ROW EXECUTE FUNCTION {schema}.freetier_journal_guard();

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

-- The tables that follow from the journal are written by its guard alone: in a trigger, and under
-- the setting that the guard makes for itself. That is against mistakes, in a host's own triggers
-- too, of those who may write these tables; other roles have no right to.
CREATE FUNCTION {schema}.freetier_follows() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
  -- A search_path of its own would cost each entry more than it is worth; so all is named in full.
  IF pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.>) 1
    AND pg_catalog.current_setting('freetier.writer', true) OPERATOR(pg_catalog.=) 'guard'
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
