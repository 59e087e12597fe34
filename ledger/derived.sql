-- Derived from the envelopes alone (derived.py), and made anew whenever this file changes: version 3.

CREATE TABLE feeds (                        -- the last entry of each, which every sync asks for
    author TEXT NOT NULL,
    feed TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL REFERENCES entries (id),
    lamport INTEGER NOT NULL,
    PRIMARY KEY (author, feed)
) STRICT;

CREATE TABLE trial_results (                -- of nearly all entries; what `entries` has of a trial is not said twice
    entry INTEGER PRIMARY KEY REFERENCES entries (number),
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
CREATE INDEX trial_results_by_status ON trial_results (status);

CREATE VIEW trials AS                       -- each with its id, author and program
SELECT e.id, e.author, e.subject AS program, t.track, t.seed, t.split, t.status, t.val_bpb, t.budget_used_s,
    t.peak_memory_bytes, t.program_lines, t.hardware
FROM trial_results AS t JOIN entries AS e ON e.number = t.entry;

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
    trial TEXT,                             -- the child's first: where it ran; may arrive later
    source TEXT                             -- the discovery in another track that it came from, if any
) STRICT;
CREATE INDEX discoveries_by_source ON discoveries (source) WHERE source IS NOT NULL;
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
    hypothesis TEXT NOT NULL,
    operator TEXT NOT NULL,                 -- the kind of change; empty where it was not said
    source TEXT                             -- as of a discovery
) STRICT;
CREATE INDEX claims_by_program ON claims (program);
CREATE INDEX claims_by_source ON claims (source) WHERE source IS NOT NULL;

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
FROM discoveries AS d LEFT JOIN entries AS e ON e.id = d.trial LEFT JOIN trial_results AS t ON t.entry = e.number
UNION ALL
SELECT a.discovery, a.author, a.verdict, a.pairs, a.mean, a.low, a.high, t.hardware
FROM attestations AS a LEFT JOIN entries AS e ON e.id = a.trial LEFT JOIN trial_results AS t ON t.entry = e.number
WHERE a.mean IS NOT NULL;

CREATE VIEW skills_in_force AS
SELECT * FROM skills AS s WHERE retired = 0
    AND NOT EXISTS (SELECT 1 FROM skills AS later WHERE later.replaces = s.id AND later.author = s.author);
