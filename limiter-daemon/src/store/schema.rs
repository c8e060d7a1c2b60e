//! The tables, and how an older file becomes a current one.

use rusqlite::Connection;

/// The version that [`upgrade`] brings a file to (`PRAGMA user_version`).
pub(super) const SCHEMA_VERSION: i64 = 3;

/// Version 1.
///
/// Usage goes by the scope's name, not its id: a scope that is removed and made again on the
/// same day must not get its day twice. `seen` is what the kernel's counters said last, so that
/// the next look can tell what came since; `map` names the kernel map they were read from.
pub(super) const V1: &str = "
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE scopes (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    tier       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE retired (
    id INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE keys (
    id           TEXT PRIMARY KEY,
    scope        INTEGER NOT NULL REFERENCES scopes (id),
    digest       BLOB NOT NULL UNIQUE CHECK (length(digest) = 16),
    label        TEXT,
    state        TEXT NOT NULL CHECK (state IN ('active', 'disabled', 'revoked')),
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER
) STRICT;
CREATE INDEX keys_by_scope ON keys (scope);

CREATE TABLE overrides (
    scope      INTEGER PRIMARY KEY REFERENCES scopes (id),
    changes    TEXT NOT NULL,
    until      INTEGER,
    note       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE usage (
    scope                    TEXT NOT NULL,
    day                      INTEGER NOT NULL,
    used                     INTEGER NOT NULL,
    refused_rate             INTEGER NOT NULL,
    refused_concurrency      INTEGER NOT NULL,
    refused_connections      INTEGER NOT NULL,
    refused_daily_quota      INTEGER NOT NULL,
    would_refuse_rate        INTEGER NOT NULL,
    would_refuse_concurrency INTEGER NOT NULL,
    would_refuse_connections INTEGER NOT NULL,
    would_refuse_daily_quota INTEGER NOT NULL,
    PRIMARY KEY (scope, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE seen (
    scope    INTEGER PRIMARY KEY,
    map      TEXT NOT NULL,
    day      INTEGER NOT NULL,
    used     INTEGER NOT NULL,
    admitted INTEGER NOT NULL,
    refused_rate             INTEGER NOT NULL,
    refused_concurrency      INTEGER NOT NULL,
    refused_connections      INTEGER NOT NULL,
    refused_daily_quota      INTEGER NOT NULL,
    would_refuse_rate        INTEGER NOT NULL,
    would_refuse_concurrency INTEGER NOT NULL,
    would_refuse_connections INTEGER NOT NULL,
    would_refuse_daily_quota INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    who    TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL,
    note   TEXT
) STRICT;
";

/// Version 2, usage: `allowed` is the count that the kernel may reach before the row is written again,
/// and `lost` how much of `used` was only allowed, and is counted since a crash hid what came of it.
const V2_USAGE: &str = "
ALTER TABLE usage ADD COLUMN allowed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
UPDATE usage SET allowed = used;
";

/// Version 2, the audit trail: entries are added and nothing else, whoever opens the file.
///
/// An `INSERT OR REPLACE` takes an entry away without the trigger for deletions
/// (<https://www.sqlite.org/lang_conflict.html>), so an entry's id must be a new one.
const V2_AUDIT: &str = "
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;

CREATE TRIGGER audit_is_not_shortened BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;

CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;

CREATE INDEX audit_by_object ON audit (object);
";

/// Version 2, history: old days are found without a look at every row.
const V2_HISTORY: &str = "
CREATE INDEX usage_by_day ON usage (day);
";

/// Version 2, modes: a scope's own, instead of its tier's.
const V2_MODE: &str = "
ALTER TABLE scopes ADD COLUMN mode TEXT CHECK (mode IN ('enforce', 'observe'));
";

/// Version 3: scopes of unknown keys, which have that key's digest and no row in `keys`.
const V3_UNKNOWN: &str = "
ALTER TABLE scopes ADD COLUMN unknown BLOB CHECK (length(unknown) = 16);
CREATE UNIQUE INDEX scopes_by_unknown ON scopes (unknown) WHERE unknown IS NOT NULL;
";

/// Brings a file of version `found` to [`SCHEMA_VERSION`] in one transaction.
pub(super) fn upgrade(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    if found < 1 {
        transaction.execute_batch(V1)?;
    }
    if found < 2 {
        transaction.execute_batch(V2_USAGE)?;
        transaction.execute_batch(V2_AUDIT)?;
        transaction.execute_batch(V2_HISTORY)?;
        transaction.execute_batch(V2_MODE)?;
    }
    if found < 3 {
        transaction.execute_batch(V3_UNKNOWN)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}
