// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tables of the store, and the upgrade of older files.

use rusqlite::Connection;

/// The version of the schema after [`upgrade`] (`PRAGMA user_version`).
pub(super) const SCHEMA_VERSION: i64 = 7;

/// Version 1 of the schema.
///
/// Usage is stored under the name of a scope instead of its id, because a scope that is removed and
/// added again on the same day must not get its quota twice. The table `seen` has the last readings
/// of the kernel's counters. The difference between two readings is the usage in between. The
/// column `map` names the kernel map from which a reading was taken.
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

/// The changes of version 2 to the table `usage`. `allowed` is the count that the kernel may reach
/// before the row is written again. If a crash loses the exact count, all requests up to `allowed`
/// are counted as used, and `lost` is the number of requests that this added to `used`.
const V2_USAGE: &str = "
ALTER TABLE usage ADD COLUMN allowed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
UPDATE usage SET allowed = used;
";

/// The changes of version 2 to the audit trail. The triggers make the audit trail append-only for
/// every program that opens the file.
///
/// `INSERT OR REPLACE` deletes an entry without activating the trigger for deletions
/// (<https://www.sqlite.org/lang_conflict.html>). Therefore the id of a new entry must not be in
/// use.
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

/// The change of version 2 for the history. The index makes it possible to find old days without a
/// scan of all rows.
const V2_HISTORY: &str = "
CREATE INDEX usage_by_day ON usage (day);
";

/// The change of version 2 to scopes. A scope can have a mode of its own instead of the mode of its
/// tier.
const V2_MODE: &str = "
ALTER TABLE scopes ADD COLUMN mode TEXT CHECK (mode IN ('enforce', 'observe'));
";

/// Version 3, which adds the scopes of unknown keys. Such a scope stores the digest of its key,
/// because the key has no row in `keys`.
const V3_UNKNOWN: &str = "
ALTER TABLE scopes ADD COLUMN unknown BLOB CHECK (length(unknown) = 16);
CREATE UNIQUE INDEX scopes_by_unknown ON scopes (unknown) WHERE unknown IS NOT NULL;
";

/// Version 4, in which a revoked key is kept after its scope is removed, together with the name of
/// that scope. If the key were removed, it would become unknown again, and requests with it could
/// be admitted. The triggers ensure that the key stays revoked, whichever program opens the file.
///
/// SQLite cannot change the constraints of an existing table, so the table `keys` is created again.
/// Its indices are created after the rows have been copied, which takes seconds instead of minutes
/// for a million keys. The times at which keys were revoked come from the audit trail.
const V4_REVOKED: &str = "
ALTER TABLE keys RENAME TO keys_before;

CREATE TABLE keys (
    id            TEXT NOT NULL,
    scope         INTEGER REFERENCES scopes (id),
    removed_scope TEXT,
    digest        BLOB NOT NULL CHECK (length(digest) = 16),
    label         TEXT,
    state         TEXT NOT NULL CHECK (state IN ('active', 'disabled', 'revoked')),
    created_at    INTEGER NOT NULL,
    last_used_at  INTEGER,
    revoked_at    INTEGER,
    CHECK ((scope IS NULL) <> (removed_scope IS NULL)),
    CHECK (scope IS NOT NULL OR state = 'revoked')
) STRICT;

INSERT INTO keys (id, scope, digest, label, state, created_at, last_used_at, revoked_at)
SELECT id, scope, digest, label, state, created_at, last_used_at,
       CASE state WHEN 'revoked' THEN
           (SELECT max(at) FROM audit WHERE object = keys_before.id AND action = 'key revoke') END
FROM keys_before;

DROP TABLE keys_before;
CREATE UNIQUE INDEX keys_by_id ON keys (id);
CREATE UNIQUE INDEX keys_by_digest ON keys (digest);
CREATE INDEX keys_by_scope ON keys (scope);

CREATE TRIGGER a_revoked_key_stays_revoked BEFORE UPDATE ON keys
WHEN OLD.state = 'revoked' AND (NEW.state <> 'revoked' OR NEW.digest <> OLD.digest)
BEGIN SELECT RAISE(ABORT, 'a revoked key stays revoked'); END;

CREATE TRIGGER a_revoked_key_is_not_forgotten BEFORE DELETE ON keys
WHEN OLD.state = 'revoked'
BEGIN SELECT RAISE(ABORT, 'a revoked key stays revoked'); END;
";

/// Version 5, for hosts that share daily quotas. `leases` has the number of requests that this host
/// may admit for a scope on a day. The kernel is never told of a lease that is not in this table.
/// `generation` is raised by each reset of a scope. `revisions` has the revision of each object of
/// the shared registry of scopes and keys that this host has, including objects that were removed.
/// `pending` marks an object that was changed while the engine could not be reached. The generation
/// of a scope that was removed is kept there, too, in case that the scope is added again.
/// `only_here` marks a key that was revoked on this host before it joined the fleet.
const V5_FLEET: &str = "
CREATE TABLE leases (
    scope TEXT NOT NULL,
    day   INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    PRIMARY KEY (scope, day)
) STRICT, WITHOUT ROWID;

ALTER TABLE scopes ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;

CREATE TABLE revisions (
    object     TEXT PRIMARY KEY,
    revision   INTEGER NOT NULL,
    pending    INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    only_here  INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX revisions_pending ON revisions (object) WHERE pending <> 0;
";

/// Version 6, which adds the requests that all hosts of a fleet have admitted on days that have
/// ended.
const V6_FLEET_USAGE: &str = "
CREATE TABLE fleet_usage (
    day   INTEGER NOT NULL,
    scope TEXT NOT NULL,
    used  INTEGER NOT NULL,
    PRIMARY KEY (day, scope)
) STRICT, WITHOUT ROWID;
";

/// Version 7, in which each limit of a scope's own has a row, with an end and a note of its own.
/// `value` is the limit as JSON. The limits of an earlier version all have the end and the note of
/// their override.
const V7_LIMITS: &str = "
ALTER TABLE overrides RENAME TO overrides_before;

CREATE TABLE overrides (
    scope  INTEGER NOT NULL REFERENCES scopes (id),
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    until  INTEGER,
    note   TEXT NOT NULL,
    set_at INTEGER NOT NULL,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;

INSERT INTO overrides (scope, name, value, until, note, set_at)
SELECT before.scope, change.key, json_quote(change.value), before.until, before.note,
       before.created_at
FROM overrides_before AS before, json_each(before.changes) AS change;

DROP TABLE overrides_before;
";

/// The change of version 7 to keys. A key is revoked at its end.
const V7_KEYS: &str = "
ALTER TABLE keys ADD COLUMN until INTEGER;
CREATE INDEX keys_by_end ON keys (until) WHERE until IS NOT NULL AND state <> 'revoked';
";

/// The changes from each version to the next one.
const VERSIONS: [&[&str]; SCHEMA_VERSION as usize] = [
    &[V1],
    &[V2_USAGE, V2_AUDIT, V2_HISTORY, V2_MODE],
    &[V3_UNKNOWN],
    &[V4_REVOKED],
    &[V5_FLEET],
    &[V6_FLEET_USAGE],
    &[V7_LIMITS, V7_KEYS],
];

/// Upgrades a file from the version `found` to [`SCHEMA_VERSION`] in one transaction.
pub(super) fn upgrade(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    change(&transaction, found, SCHEMA_VERSION)?;
    transaction.commit()
}

/// Upgrades a file from one version to another, within a transaction of the caller.
pub(super) fn change(connection: &Connection, from: i64, to: i64) -> rusqlite::Result<()> {
    for (before, changes) in (0..to).zip(VERSIONS) {
        if before >= from {
            changes
                .iter()
                .try_for_each(|change| connection.execute_batch(change))?;
        }
    }
    connection.pragma_update(None, "user_version", to)
}
