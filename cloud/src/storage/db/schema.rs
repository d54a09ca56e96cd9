//! The schema of the database, as the steps that lead to it. Opening a database performs the steps that it has not
//! seen yet.

/// The steps from one version of the database to the next; `user_version` counts those that are done. A step that was
/// released is never changed. The first one was made without counting: it may have been done at 0 too.
pub(super) const STEPS: [&str; 9] =
    [FIRST, MONEY_AND_RETENTION, PEOPLE_AND_PAYMENTS, SESSIONS, CLICKS, RESETS_AND_PAYOUTS, PARTS, FLEET, PLACES];

/// Reports are ordered by when they were made, not by when they arrived; those of before, by their arrival.
const PLACES: &str = "
ALTER TABLE reports ADD COLUMN place INTEGER NOT NULL DEFAULT 0;        -- a camera's newest report has the highest
UPDATE reports SET place = received_at;
CREATE INDEX reports_place ON reports (device, place, id);
";

/// What makes a look at the clock, and a change for everybody, cost as little for one camera of many as for the only
/// one. A camera's row says when its document was issued and by which key, and when its oldest clip becomes too old;
/// indexes order the cameras by that. A clip that arrives announces itself by a trigger, so that no writer can forget it.
const FLEET: &str = "
ALTER TABLE cameras ADD COLUMN newest INTEGER;                          -- its newest document; NULL before the first
ALTER TABLE cameras ADD COLUMN issued_at INTEGER;                       -- when that was issued, Unix seconds
ALTER TABLE cameras ADD COLUMN signed_by INTEGER;                       -- by the signing key of this number; NULL: not on record
ALTER TABLE cameras ADD COLUMN history_h INTEGER NOT NULL DEFAULT 0;    -- its plan's history, hours
ALTER TABLE cameras ADD COLUMN oldest_ms INTEGER;                       -- no clip that is kept began earlier; NULL: none is kept
UPDATE cameras SET newest = (SELECT id FROM documents d WHERE d.device = cameras.device ORDER BY epoch DESC, seq DESC LIMIT 1);
UPDATE cameras SET issued_at = (SELECT body ->> 'iat' FROM documents WHERE id = newest),
    oldest_ms = (SELECT min(started_ms) FROM clips k WHERE k.device = cameras.device AND stored_at IS NOT NULL AND erased_at IS NULL);
CREATE INDEX cameras_seats ON cameras (account, bound_at) WHERE bound = 1;
CREATE INDEX cameras_issued ON cameras (issued_at) WHERE reset_at IS NULL;
CREATE INDEX cameras_signed ON cameras (signed_by) WHERE reset_at IS NULL;
CREATE INDEX cameras_sweep ON cameras (oldest_ms + history_h * 3600000) WHERE oldest_ms IS NOT NULL;
CREATE TRIGGER clip_is_kept AFTER INSERT ON clips WHEN NEW.stored_at IS NOT NULL AND NEW.erased_at IS NULL
    BEGIN UPDATE cameras SET oldest_ms = min(coalesce(oldest_ms, NEW.started_ms), NEW.started_ms) WHERE device = NEW.device; END;
CREATE TRIGGER clip_arrived AFTER UPDATE OF stored_at, erased_at ON clips WHEN NEW.stored_at IS NOT NULL AND NEW.erased_at IS NULL
    BEGIN UPDATE cameras SET oldest_ms = min(coalesce(oldest_ms, NEW.started_ms), NEW.started_ms) WHERE device = NEW.device; END;

CREATE INDEX subscriptions_account ON subscriptions (account) WHERE state != 'ended';
CREATE INDEX orders_number ON orders (substr(order_id, 1, 8), CAST(substr(order_id, 9) AS INTEGER));
CREATE INDEX documents_unreported ON documents (device, epoch, seq) WHERE reported_at IS NULL;
CREATE INDEX outbox_device ON outbox (device, document);
CREATE INDEX outbox_chase ON outbox (chase_at) WHERE chase_at IS NOT NULL AND due = 0;

-- As before, but for one account: the view credits reads the whole ledger.
DROP TRIGGER ledger_credit_is_there;
CREATE TRIGGER ledger_credit_is_there AFTER INSERT ON ledger WHEN NEW.kind = 'credit_used' AND
        (SELECT sum(CASE l.kind WHEN 'credit' THEN l.amount_minor WHEN 'credit_used' THEN -l.amount_minor ELSE 0 END)
              - (SELECT coalesce(sum(p.amount_minor), 0) FROM orders b JOIN payouts p ON p.order_id = b.order_id
                 WHERE b.account = o.account AND b.currency = o.currency)
         FROM orders o JOIN orders a ON a.account = o.account AND a.currency = o.currency JOIN ledger l ON l.order_id = a.order_id
         WHERE o.order_id = NEW.order_id) < 0
    BEGIN SELECT RAISE(ABORT, 'the account has not so much credit'); END;
DROP TRIGGER payout_credit_is_there;
CREATE TRIGGER payout_credit_is_there AFTER INSERT ON payouts
    WHEN (SELECT sum(CASE l.kind WHEN 'credit' THEN l.amount_minor WHEN 'credit_used' THEN -l.amount_minor ELSE 0 END)
               - (SELECT coalesce(sum(p.amount_minor), 0) FROM orders b JOIN payouts p ON p.order_id = b.order_id
                  WHERE b.account = o.account AND b.currency = o.currency)
          FROM orders o JOIN orders a ON a.account = o.account AND a.currency = o.currency JOIN ledger l ON l.order_id = a.order_id
          WHERE o.order_id = NEW.order_id) < 0
      OR (SELECT sum(amount_minor) FROM payouts WHERE order_id = NEW.order_id)
         > (SELECT coalesce(sum(amount_minor), 0) FROM ledger WHERE order_id = NEW.order_id AND kind = 'credit')
    BEGIN SELECT RAISE(ABORT, 'the account has not so much credit'); END;
";

/// Clips that arrive in parts while they are being filmed. Such a clip's row has what its parts have in sum, and no digest.
const PARTS: &str = "
CREATE TABLE parts (
    clip        TEXT NOT NULL REFERENCES clips ON DELETE CASCADE,
    part        INTEGER NOT NULL,               -- its index, from 0 on
    last        INTEGER NOT NULL,               -- 1: the clip ends with it
    duration_ms INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    stored_at   INTEGER,                        -- microseconds
    PRIMARY KEY (clip, part)
) STRICT, WITHOUT ROWID;
ALTER TABLE grants ADD COLUMN part INTEGER;     -- NULL: for a whole clip
";

const SESSIONS: &str = "
CREATE TABLE sessions (
    secret_hash TEXT PRIMARY KEY,               -- base64url of SHA-256
    account     TEXT REFERENCES accounts,       -- NULL: an engineer
    login       TEXT NOT NULL,
    opened_at   INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL
) STRICT;
";

const CLICKS: &str = "
CREATE TABLE clicks (
    document    INTEGER PRIMARY KEY REFERENCES documents,
    at          INTEGER NOT NULL                -- microseconds; the request that caused it arrived
) STRICT;
";

/// A camera may report that it was reset; unusable credit is paid out, from the orders it came from; old rows are
/// found by their age.
const RESETS_AND_PAYOUTS: &str = "
ALTER TABLE cameras ADD COLUMN reset_at INTEGER;    -- microseconds; it reported a factory reset under its present epoch

CREATE TABLE payouts (
    id           INTEGER PRIMARY KEY,
    order_id     TEXT NOT NULL REFERENCES orders,
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    at           INTEGER NOT NULL
) STRICT;
CREATE INDEX payouts_order ON payouts (order_id);
DROP VIEW credits;
CREATE VIEW credits AS SELECT account, currency, sum(minor) AS minor FROM (
    SELECT o.account, o.currency,
           CASE l.kind WHEN 'credit' THEN l.amount_minor WHEN 'credit_used' THEN -l.amount_minor ELSE 0 END AS minor
    FROM orders o JOIN ledger l ON l.order_id = o.order_id
    UNION ALL
    SELECT o.account, o.currency, -p.amount_minor FROM orders o JOIN payouts p ON p.order_id = o.order_id
) GROUP BY account, currency;
CREATE TRIGGER payouts_are_not_changed BEFORE UPDATE ON payouts BEGIN SELECT RAISE(ABORT, 'payouts are only added to'); END;
CREATE TRIGGER payouts_are_not_erased BEFORE DELETE ON payouts BEGIN SELECT RAISE(ABORT, 'payouts are only added to'); END;
CREATE TRIGGER payout_credit_is_there AFTER INSERT ON payouts
    WHEN EXISTS (SELECT 1 FROM credits c JOIN orders o USING (account, currency) WHERE o.order_id = NEW.order_id AND c.minor < 0)
      OR (SELECT sum(amount_minor) FROM payouts WHERE order_id = NEW.order_id)
         > (SELECT coalesce(sum(amount_minor), 0) FROM ledger WHERE order_id = NEW.order_id AND kind = 'credit')
    BEGIN SELECT RAISE(ABORT, 'the account has not so much credit'); END;

CREATE INDEX reports_received ON reports (received_at);
CREATE INDEX grants_granted ON grants (granted_at);
CREATE INDEX grants_clip ON grants (clip);
";

pub(super) const FIRST: &str = "
CREATE TABLE IF NOT EXISTS accounts (
    id          TEXT PRIMARY KEY,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS cameras (
    device      TEXT PRIMARY KEY,
    model       TEXT NOT NULL,
    account     TEXT NOT NULL REFERENCES accounts,
    bound       INTEGER NOT NULL,               -- 0: the account is the last one it had
    bound_at    INTEGER NOT NULL,               -- seats are given in this order
    epoch       INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    status      TEXT NOT NULL DEFAULT 'unknown',
    status_at   INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS subscriptions (
    order_id    TEXT PRIMARY KEY,
    account     TEXT NOT NULL REFERENCES accounts,
    plan        TEXT NOT NULL,
    device      TEXT REFERENCES cameras,        -- NULL: the whole account
    channel     TEXT NOT NULL,
    cycle       TEXT NOT NULL,
    paid_minor  INTEGER NOT NULL,
    currency    TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    period_end  INTEGER NOT NULL,
    state       TEXT NOT NULL                   -- active, ending (until due_at), grace (until due_at), hold, ended
) STRICT;
CREATE TABLE IF NOT EXISTS refunds (
    order_id    TEXT NOT NULL REFERENCES subscriptions,
    kind        TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency    TEXT NOT NULL,
    at          INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS documents (
    id          INTEGER PRIMARY KEY,
    device      TEXT NOT NULL REFERENCES cameras,
    epoch       INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    token       TEXT NOT NULL,
    body        TEXT NOT NULL,                  -- the entitlement as JSON
    reported_at INTEGER,                        -- microseconds; the camera has said what it made of it
    report      TEXT,
    UNIQUE (device, epoch, seq)
) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    document    INTEGER PRIMARY KEY REFERENCES documents,
    device      TEXT NOT NULL,
    due         INTEGER NOT NULL,               -- 1: to be published
    issued_at   INTEGER NOT NULL,               -- microseconds, as the following
    published_at INTEGER,
    acked_at    INTEGER,
    tries       INTEGER NOT NULL DEFAULT 0,
    chase_at    INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due) WHERE due = 1;
CREATE TABLE IF NOT EXISTS reports (
    id          INTEGER PRIMARY KEY,
    device      TEXT NOT NULL,
    received_at INTEGER NOT NULL,               -- microseconds
    body        TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS reports_device ON reports (device, id);
CREATE TABLE IF NOT EXISTS clips (
    clip        TEXT PRIMARY KEY,
    device      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    started_ms  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    stored_at   INTEGER,                        -- microseconds
    erased_at   INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS grants (
    id          TEXT PRIMARY KEY,
    clip        TEXT NOT NULL REFERENCES clips,
    device      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,               -- the document it was given under
    seq         INTEGER NOT NULL,
    granted_at  INTEGER NOT NULL,
    state       TEXT NOT NULL                   -- open, used, revoked
) STRICT;
CREATE INDEX IF NOT EXISTS grants_open ON grants (device) WHERE state = 'open';
";

/// Orders get their own ledger, filled with earlier sales and refunds; clips record that their object was deleted, not
/// only that it is marked.
const MONEY_AND_RETENTION: &str = "
CREATE TABLE orders (
    order_id     TEXT PRIMARY KEY,
    account      TEXT NOT NULL REFERENCES accounts,
    plan         TEXT NOT NULL,
    device       TEXT REFERENCES cameras,       -- NULL: the whole account
    channel      TEXT NOT NULL,
    cycle        TEXT NOT NULL,
    zone         TEXT NOT NULL,                 -- IANA; the days of the period are its days
    price_minor  INTEGER NOT NULL CHECK (price_minor >= 0),
    currency     TEXT NOT NULL,
    period_start INTEGER NOT NULL,
    period_end   INTEGER NOT NULL
) STRICT;
CREATE TABLE ledger (
    id           INTEGER PRIMARY KEY,
    order_id     TEXT NOT NULL REFERENCES orders,
    kind         TEXT NOT NULL CHECK (kind IN ('payment', 'credit_used', 'used', 'refund', 'credit')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
    at           INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_order ON ledger (order_id);
CREATE INDEX orders_account ON orders (account);
CREATE VIEW credits AS
    SELECT o.account, o.currency,
           sum(CASE l.kind WHEN 'credit' THEN l.amount_minor WHEN 'credit_used' THEN -l.amount_minor ELSE 0 END) AS minor
    FROM orders o JOIN ledger l ON l.order_id = o.order_id GROUP BY o.account, o.currency;

INSERT INTO orders SELECT order_id, account, plan, device, channel, cycle, 'UTC', paid_minor, currency, started_at, period_end
    FROM subscriptions ORDER BY started_at, rowid;
INSERT INTO ledger (order_id, kind, amount_minor, at) SELECT order_id, 'payment', paid_minor, started_at
    FROM subscriptions ORDER BY started_at, rowid;
INSERT INTO ledger (order_id, kind, amount_minor, at) SELECT order_id, kind, amount_minor, at FROM refunds ORDER BY rowid;
INSERT INTO ledger (order_id, kind, amount_minor, at)
    SELECT s.order_id, 'used', s.paid_minor - coalesce((SELECT sum(amount_minor) FROM refunds r WHERE r.order_id = s.order_id), 0),
           coalesce((SELECT max(at) FROM refunds r WHERE r.order_id = s.order_id), s.period_end)
    FROM subscriptions s WHERE s.state = 'ended';
DROP TABLE refunds;

CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER ledger_is_not_erased BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER ledger_order_gives_what_it_has AFTER INSERT ON ledger
    WHEN (SELECT sum(CASE WHEN kind IN ('payment', 'credit_used') THEN amount_minor ELSE -amount_minor END)
          FROM ledger WHERE order_id = NEW.order_id) < 0
    BEGIN SELECT RAISE(ABORT, 'more would go out of the order than was paid'); END;
CREATE TRIGGER ledger_credit_is_there AFTER INSERT ON ledger WHEN NEW.kind = 'credit_used' AND EXISTS
        (SELECT 1 FROM credits c JOIN orders o USING (account, currency) WHERE o.order_id = NEW.order_id AND c.minor < 0)
    BEGIN SELECT RAISE(ABORT, 'the account has not so much credit'); END;

-- Periods are reckoned from the anchor: periods of them are billed. What runs already was billed until its period's end.
ALTER TABLE subscriptions ADD COLUMN zone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE subscriptions ADD COLUMN anchor_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscriptions ADD COLUMN periods INTEGER NOT NULL DEFAULT 0;
UPDATE subscriptions SET anchor_at = period_end;

ALTER TABLE clips ADD COLUMN gone_at INTEGER;   -- microseconds; a listing of the store no longer has its object
CREATE INDEX clips_kept ON clips (device, started_ms) WHERE stored_at IS NOT NULL AND erased_at IS NULL;
CREATE INDEX clips_to_go ON clips (device) WHERE erased_at IS NOT NULL AND gone_at IS NULL;
";

/// People sign in to accounts; a subscription may be the account's one trial, and its bill may fail.
const PEOPLE_AND_PAYMENTS: &str = "
ALTER TABLE accounts ADD COLUMN login TEXT;                             -- the TP-Link ID, in small letters
ALTER TABLE accounts ADD COLUMN password TEXT;                          -- its hash
ALTER TABLE accounts ADD COLUMN trial_at INTEGER;                       -- when the one trial began
ALTER TABLE accounts ADD COLUMN declines INTEGER NOT NULL DEFAULT 0;    -- 1: its card is declined
CREATE UNIQUE INDEX accounts_login ON accounts (login);
ALTER TABLE subscriptions ADD COLUMN trial INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscriptions ADD COLUMN due_at INTEGER NOT NULL DEFAULT 0; -- when something is to be done next: bill, end, hold
UPDATE subscriptions SET due_at = period_end;
CREATE INDEX subscriptions_due ON subscriptions (due_at) WHERE state != 'ended';
";
