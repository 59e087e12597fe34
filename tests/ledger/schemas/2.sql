-- Version 2: truth.sql and derived.sql as they were.

-- The truth, version 2: what was signed, the bytes that it names, and what is known of this place only. Every other
-- table (derived.sql) follows from `entries` alone.

CREATE TABLE about (                        -- one row: which swarm's ledger this is
    challenge TEXT NOT NULL                 -- SHA-256 of the canonical challenge
) STRICT;

CREATE TABLE entries (
    id TEXT PRIMARY KEY,                    -- CIDv1 of the payload
    author TEXT NOT NULL,                   -- libp2p peer id
    feed TEXT NOT NULL,                     -- main or trials, with a number after a feed reset
    seq INTEGER NOT NULL,
    prev TEXT REFERENCES entries (id),
    lamport INTEGER NOT NULL,
    kind TEXT NOT NULL,                     -- trial, discovery, …; a whole URN where this version cannot read it
    subject TEXT NOT NULL,                  -- SHA-256 of what it is about, mostly a program
    recorded_at TEXT NOT NULL,              -- the author's wall clock: information only
    envelope BLOB NOT NULL,                 -- DSSE in msgpack, exactly as signed
    UNIQUE (author, feed, seq)
) STRICT;
CREATE INDEX entries_by_clock ON entries (lamport);
CREATE INDEX entries_by_kind ON entries (kind, lamport);
CREATE INDEX entries_by_author ON entries (author, lamport);
CREATE INDEX entries_by_subject ON entries (subject);

CREATE TABLE refused (                      -- signed by its author and yet not believed: the proof, or the rest of a feed
    id TEXT PRIMARY KEY,
    author TEXT NOT NULL,
    feed TEXT NOT NULL,
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL CHECK (reason IN ('equivocation', 'revoked')),
    envelope BLOB NOT NULL
) STRICT;
CREATE INDEX refused_by_author ON refused (author);

CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,                -- SHA-256 of the plain bytes
    size INTEGER NOT NULL,                  -- of the plain bytes
    data BLOB NOT NULL                      -- zstd
) STRICT;

CREATE TABLE peers (                        -- where others were last reached; local, never shared as truth
    peer TEXT PRIMARY KEY,
    address TEXT NOT NULL                   -- multiaddr ending in /p2p/<peer>
) STRICT;

CREATE TABLE peer_records (   -- who was heard of and reached where; local, as above
    peer TEXT PRIMARY KEY,
    record BLOB,                            -- signed by the peer; null: none heard yet
    source TEXT NOT NULL,                   -- the peer that told
    address TEXT,                           -- where this node last reached it
    reached_at INTEGER                      -- Unix seconds
) STRICT;

CREATE TABLE peer_rules (     -- whom the owner wants or does not want
    target TEXT PRIMARY KEY,                -- peer id, or network in CIDR form
    allowed INTEGER NOT NULL CHECK (allowed IN (0, 1)),
    reason TEXT NOT NULL
) STRICT;

-- Derived from the envelopes alone (derived.py), and made anew whenever this file changes: version 2.

CREATE TABLE feeds (                        -- the last entry of each, which every sync asks for
    author TEXT NOT NULL,
    feed TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL REFERENCES entries (id),
    lamport INTEGER NOT NULL,
    PRIMARY KEY (author, feed)
) STRICT;

CREATE TABLE trials (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    program TEXT NOT NULL,
    track TEXT NOT NULL,
    seed INTEGER NOT NULL,
    split TEXT NOT NULL,
    status TEXT NOT NULL,
    val_bpb REAL,                           -- null unless status is ok
    budget_used_s REAL NOT NULL,
    peak_memory_bytes INTEGER NOT NULL,
    program_lines INTEGER NOT NULL,
    hardware TEXT NOT NULL                  -- the GPU, or else the CPU
) STRICT;
CREATE INDEX trials_by_program ON trials (program);
CREATE INDEX trials_by_status ON trials (status);

CREATE TABLE discoveries (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    track TEXT NOT NULL,
    parent TEXT NOT NULL,
    child TEXT NOT NULL,
    hypothesis TEXT NOT NULL,
    proposer TEXT NOT NULL,
    pairs INTEGER NOT NULL,
    mean REAL NOT NULL,                     -- bits per byte, child - parent, with the 95 % interval
    low REAL NOT NULL,
    high REAL NOT NULL,
    trial TEXT                              -- the child's first: where it ran; may arrive later
) STRICT;
CREATE INDEX discoveries_by_child ON discoveries (child);
CREATE INDEX discoveries_by_parent ON discoveries (parent);
CREATE INDEX discoveries_by_effect ON discoveries (track, mean);

CREATE TABLE attestations (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    discovery TEXT NOT NULL,                -- may arrive before the discovery does
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    pairs INTEGER NOT NULL,
    mean REAL,
    low REAL,
    high REAL,
    trial TEXT                              -- as above
) STRICT;
CREATE INDEX attestations_by_discovery ON attestations (discovery, author);

CREATE TABLE adoptions (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    track TEXT NOT NULL,
    program TEXT NOT NULL,
    previous TEXT,
    discovery TEXT,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX adoptions_by_discovery ON adoptions (discovery);
CREATE INDEX adoptions_by_author ON adoptions (author, track);

CREATE TABLE retractions (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    discovery TEXT NOT NULL,
    reason TEXT NOT NULL,
    mean REAL,
    low REAL,
    high REAL
) STRICT;
CREATE INDEX retractions_by_discovery ON retractions (discovery);

CREATE TABLE claims (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    track TEXT NOT NULL,
    program TEXT NOT NULL,
    parent TEXT NOT NULL,
    hypothesis TEXT NOT NULL
) STRICT;
CREATE INDEX claims_by_program ON claims (program);

CREATE TABLE skills (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    replaces TEXT,
    retired INTEGER NOT NULL
) STRICT;

CREATE TABLE gates (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    previous TEXT,
    state TEXT NOT NULL,
    commanded INTEGER NOT NULL,             -- by a human
    reason TEXT NOT NULL
) STRICT;

CREATE TABLE amendments (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    constitution TEXT NOT NULL,             -- as it would be
    previous TEXT NOT NULL,
    proposal TEXT,                          -- null: this proposes; else it ratifies
    reason TEXT NOT NULL
) STRICT;

CREATE TABLE checkpoints (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    feed TEXT NOT NULL,
    size INTEGER NOT NULL,                  -- entries
    note TEXT NOT NULL
) STRICT;
CREATE INDEX checkpoints_by_feed ON checkpoints (author, feed, size);

CREATE TABLE revocations (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    feed TEXT NOT NULL,                     -- where it stands
    seq INTEGER NOT NULL,
    heads TEXT NOT NULL,                    -- JSON: {feed: [seq, id]} of the author's other feeds that still hold
    successor TEXT
) STRICT;
CREATE INDEX revocations_by_author ON revocations (author);

CREATE VIRTUAL TABLE entry_text USING fts5 (id UNINDEXED, kind UNINDEXED, text, tokenize = 'unicode61');

CREATE VIEW discovery_status AS             -- each discovery and what became of it
SELECT d.*, e.lamport, e.recorded_at,
    (SELECT count(DISTINCT author) FROM attestations
     WHERE discovery = d.id AND verdict = 'confirmed' AND author <> d.author) AS confirmed,
    (SELECT count(DISTINCT author) FROM attestations
     WHERE discovery = d.id AND verdict = 'refuted' AND author <> d.author) AS refuted,
    (SELECT count(DISTINCT author) FROM adoptions WHERE discovery = d.id) AS adopted,
    (SELECT count(DISTINCT author) FROM retractions WHERE discovery = d.id) AS retracted
FROM discoveries AS d JOIN entries AS e USING (id);

CREATE VIEW effects AS                      -- every effect that anybody measured of a discovery, and on what
SELECT d.id AS discovery, d.author, 'claimed' AS verdict, d.pairs, d.mean, d.low, d.high, t.hardware
FROM discoveries AS d LEFT JOIN trials AS t ON t.id = d.trial
UNION ALL
SELECT a.discovery, a.author, a.verdict, a.pairs, a.mean, a.low, a.high, t.hardware
FROM attestations AS a LEFT JOIN trials AS t ON t.id = a.trial WHERE a.mean IS NOT NULL;

CREATE VIEW skills_in_force AS
SELECT * FROM skills AS s WHERE retired = 0
    AND NOT EXISTS (SELECT 1 FROM skills AS later WHERE later.replaces = s.id AND later.author = s.author);

PRAGMA user_version = 2;
