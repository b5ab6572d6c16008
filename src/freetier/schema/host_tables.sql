CREATE TABLE {schema}paid_refunds (
    payment_hash TEXT PRIMARY KEY,
    job_id TEXT,
    session_id TEXT,
    CHECK ((job_id IS NULL) <> (session_id IS NULL)),
    UNIQUE (payment_hash, job_id),
    UNIQUE (payment_hash, session_id)
);

CREATE TABLE {schema}paid_jobs (
    id TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('awaiting_eval_payment', 'evaluating', 'rejected',
        'awaiting_work_payment', 'executing', 'complete', 'failed')),
    identity TEXT,
    tier TEXT NOT NULL,
    eval_invoice_id TEXT UNIQUE,
    eval_bolt11 TEXT,
    eval_amount_sats BIGINT NOT NULL CHECK (eval_amount_sats >= 0),
    eval_expires_at_us BIGINT,
    eval_paid_at_us BIGINT,
    rejection_reason TEXT,
    estimated_cost_usd TEXT,
    margin_pct TEXT,
    btc_usd TEXT,
    price_sats BIGINT CHECK (price_sats >= 0),
    free_tier BOOLEAN NOT NULL,
    absorbed_sats BIGINT NOT NULL CHECK (absorbed_sats >= 0 AND absorbed_sats <= price_sats
        OR absorbed_sats = 0),
    work_invoice_id TEXT UNIQUE,
    work_bolt11 TEXT,
    work_amount_sats BIGINT CHECK (work_amount_sats >= 0 AND work_amount_sats <= price_sats),
    work_expires_at_us BIGINT,
    work_paid_at_us BIGINT,
    result TEXT,
    error_message TEXT,
    input_tokens BIGINT,
    output_tokens BIGINT,
    actual_cost_usd TEXT,
    actual_sats BIGINT CHECK (actual_sats >= 0),
    refund_sats BIGINT NOT NULL CHECK (refund_sats >= 0
        AND refund_sats <= COALESCE(work_amount_sats, eval_amount_sats)),
    refund_state TEXT NOT NULL CHECK (refund_state IN ('not_applicable', 'pending', 'paid')),
    refund_destination TEXT,
    refund_bolt11 TEXT,
    refund_hash TEXT UNIQUE,
    created_at_us BIGINT NOT NULL,
    updated_at_us BIGINT NOT NULL,
    version BIGINT NOT NULL CHECK (version >= 1),
    FOREIGN KEY (refund_hash, id) REFERENCES {schema}paid_refunds (payment_hash, job_id)
);

CREATE INDEX paid_jobs_unfinished ON {schema}paid_jobs (id)
    WHERE state NOT IN ('rejected', 'complete', 'failed')
        OR refund_state = 'pending' AND refund_destination IS NOT NULL;

CREATE INDEX paid_jobs_expired ON {schema}paid_jobs (updated_at_us, id)
    WHERE state = 'failed' AND (CASE WHEN work_amount_sats IS NULL THEN eval_amount_sats > 0 AND
        eval_paid_at_us IS NULL ELSE work_amount_sats > 0 AND work_paid_at_us IS NULL END);

CREATE TABLE {schema}paid_sessions (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('awaiting_payment', 'active', 'expired', 'closed')),
    identity TEXT,
    tier TEXT NOT NULL,
    deposit_sats BIGINT NOT NULL CHECK (deposit_sats >= 1),
    invoice_id TEXT UNIQUE,
    bolt11 TEXT,
    expires_at_us BIGINT,
    paid_at_us BIGINT,
    balance_sats BIGINT NOT NULL CHECK (balance_sats >= 0),
    held_sats BIGINT NOT NULL CHECK (held_sats >= 0 AND held_sats <= balance_sats),
    promised_sats BIGINT NOT NULL CHECK (promised_sats >= 0),
    open_requests BIGINT NOT NULL CHECK (open_requests >= 0),
    refund_sats BIGINT NOT NULL CHECK (refund_sats >= 0 AND refund_sats <= deposit_sats),
    refund_state TEXT NOT NULL CHECK (refund_state IN ('not_applicable', 'pending', 'paid')),
    refund_destination TEXT,
    refund_bolt11 TEXT,
    refund_hash TEXT UNIQUE,
    created_at_us BIGINT NOT NULL,
    updated_at_us BIGINT NOT NULL,
    version BIGINT NOT NULL CHECK (version >= 1),
    FOREIGN KEY (refund_hash, id) REFERENCES {schema}paid_refunds (payment_hash, session_id)
);

CREATE INDEX paid_sessions_unfinished ON {schema}paid_sessions (id)
    WHERE state = 'awaiting_payment'
        OR refund_state = 'pending' AND refund_destination IS NOT NULL;

CREATE INDEX paid_sessions_expired ON {schema}paid_sessions (updated_at_us, id)
    WHERE state = 'expired';

CREATE INDEX paid_sessions_promised ON {schema}paid_sessions (identity)
    WHERE promised_sats > 0;

CREATE TABLE {schema}paid_session_requests (
    id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES {schema}paid_sessions (id),
    request TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('computing', 'complete', 'failed')),
    held_sats BIGINT NOT NULL CHECK (held_sats >= 0),
    promised_sats BIGINT NOT NULL CHECK (promised_sats >= 0),
    result TEXT,
    error_message TEXT,
    input_tokens BIGINT,
    output_tokens BIGINT,
    actual_cost_usd TEXT,
    actual_sats BIGINT CHECK (actual_sats >= 0),
    free_tier BOOLEAN NOT NULL,
    absorbed_sats BIGINT NOT NULL CHECK (absorbed_sats >= 0),
    charged_sats BIGINT NOT NULL CHECK (charged_sats >= 0),
    unpaid_sats BIGINT NOT NULL CHECK (unpaid_sats >= 0),
    created_at_us BIGINT NOT NULL,
    updated_at_us BIGINT NOT NULL,
    version BIGINT NOT NULL CHECK (version >= 1),
    CHECK (state <> 'complete' OR absorbed_sats + charged_sats + unpaid_sats = actual_sats)
);

CREATE INDEX paid_session_requests_unfinished ON {schema}paid_session_requests (id)
    WHERE state = 'computing';
