-- Version 1. `entries` and `blobs` are the truth; every other table is derived from the envelopes alone.

CREATE TABLE about (                        -- one row: which swarm's ledger this is
    challenge TEXT NOT NULL                 -- SHA-256 of the canonical challenge
) STRICT;

CREATE TABLE entries (
    id TEXT PRIMARY KEY,                    -- CIDv1 of the payload
    author TEXT NOT NULL,                   -- libp2p peer id
    feed TEXT NOT NULL,                     -- main or trials
    seq INTEGER NOT NULL,
    prev TEXT REFERENCES entries (id),
    lamport INTEGER NOT NULL,
    kind TEXT NOT NULL,                     -- trial, discovery, attestation, adoption, or a name not known yet
    subject TEXT NOT NULL,                  -- SHA-256 of the program
    recorded_at TEXT NOT NULL,              -- the author's wall clock: information only
    envelope BLOB NOT NULL,                 -- DSSE in msgpack, exactly as signed
    UNIQUE (author, feed, seq)
) STRICT;
CREATE INDEX entries_by_clock ON entries (lamport, id);
CREATE INDEX entries_by_subject ON entries (subject);

CREATE TABLE feeds (                        -- the last entry of each, which every sync asks for
    author TEXT NOT NULL,
    feed TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL REFERENCES entries (id),
    lamport INTEGER NOT NULL,
    PRIMARY KEY (author, feed)
) STRICT;

CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,                -- SHA-256 of the plain bytes
    size INTEGER NOT NULL,                  -- of the plain bytes
    data BLOB NOT NULL                      -- zstd
) STRICT;

CREATE TABLE trials (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    program TEXT NOT NULL,
    track TEXT NOT NULL,
    seed INTEGER NOT NULL,
    split TEXT NOT NULL,
    status TEXT NOT NULL,
    val_bpb REAL                            -- null unless status is ok
) STRICT;
CREATE INDEX trials_by_program ON trials (program, split, seed);

CREATE TABLE discoveries (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    track TEXT NOT NULL,
    parent TEXT NOT NULL,
    child TEXT NOT NULL,
    hypothesis TEXT NOT NULL,
    proposer TEXT NOT NULL,
    mean REAL NOT NULL,                     -- bits per byte, child - parent, with the 95 % interval
    low REAL NOT NULL,
    high REAL NOT NULL
) STRICT;
CREATE INDEX discoveries_by_child ON discoveries (child);
CREATE INDEX discoveries_by_parent ON discoveries (parent);

CREATE TABLE attestations (
    id TEXT PRIMARY KEY REFERENCES entries (id),
    author TEXT NOT NULL,
    discovery TEXT NOT NULL,                -- may arrive before the discovery does
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    mean REAL,
    low REAL,
    high REAL
) STRICT;
CREATE INDEX attestations_by_discovery ON attestations (discovery);

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

CREATE TABLE peers (                        -- where others were last reached; local, never shared as truth
    peer TEXT PRIMARY KEY,
    address TEXT NOT NULL                   -- multiaddr ending in /p2p/<peer>
) STRICT;

PRAGMA user_version = 1;
