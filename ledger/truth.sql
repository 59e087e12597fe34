-- The truth, version 3: what was signed, the bytes that it names, and what is known of this place only. Every other
-- table (derived.sql) follows from `entries` alone.

CREATE TABLE IF NOT EXISTS about (                        -- one row: which swarm's ledger this is
    challenge TEXT NOT NULL                 -- SHA-256 of the canonical challenge
) STRICT;

CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,             -- in the order of arrival; of this file only, and never shared
    id TEXT NOT NULL UNIQUE,                -- CIDv1 of the payload
    author TEXT NOT NULL,                   -- libp2p peer id
    feed TEXT NOT NULL,                     -- main or trials, with a number after a feed reset
    seq INTEGER NOT NULL,
    prev TEXT,                              -- id of the entry before it in its feed
    lamport INTEGER NOT NULL,
    kind TEXT NOT NULL,                     -- trial, discovery, …; a whole URN where this version cannot read it
    subject TEXT NOT NULL,                  -- SHA-256 of what it is about, mostly a program
    recorded_at TEXT NOT NULL,              -- the author's wall clock: information only
    envelope BLOB NOT NULL,                 -- DSSE in msgpack, exactly as signed
    UNIQUE (author, feed, seq)
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_clock ON entries (lamport);
CREATE INDEX IF NOT EXISTS entries_by_kind ON entries (kind, lamport);
CREATE INDEX IF NOT EXISTS entries_by_author ON entries (author, lamport);
CREATE INDEX IF NOT EXISTS entries_by_subject ON entries (subject);

CREATE TABLE IF NOT EXISTS refused (                      -- signed by its author and yet not believed: the proof, or the rest of a feed
    id TEXT PRIMARY KEY,
    author TEXT NOT NULL,
    feed TEXT NOT NULL,
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL CHECK (reason IN ('equivocation', 'revoked')),
    envelope BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS refused_by_author ON refused (author);

CREATE TABLE IF NOT EXISTS blobs (
    digest TEXT PRIMARY KEY,                -- SHA-256 of the plain bytes
    size INTEGER NOT NULL,                  -- of the plain bytes
    data BLOB NOT NULL                      -- zstd
) STRICT;

CREATE TABLE IF NOT EXISTS peers (                        -- where others were last reached; local, never shared as truth
    peer TEXT PRIMARY KEY,
    address TEXT NOT NULL                   -- multiaddr ending in /p2p/<peer>
) STRICT;

CREATE TABLE IF NOT EXISTS peer_records (   -- who was heard of and reached where; local, as above
    peer TEXT PRIMARY KEY,
    record BLOB,                            -- signed by the peer; null: none heard yet
    source TEXT NOT NULL,                   -- the peer that told
    address TEXT,                           -- where this node last reached it
    reached_at INTEGER                      -- Unix seconds
) STRICT;

CREATE TABLE IF NOT EXISTS peer_rules (     -- whom the owner wants or does not want
    target TEXT PRIMARY KEY,                -- peer id, or network in CIDR form
    allowed INTEGER NOT NULL CHECK (allowed IN (0, 1)),
    reason TEXT NOT NULL
) STRICT;
