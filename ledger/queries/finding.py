"""Finding what one cannot name: full-text search, and the best discoveries of a track."""

import statistics

from msgspec import Struct

from ledger.queries.lineage import Mark, entry_marks, marks
from ledger.queries.records import DISCOVERIES, DiscoveryRow, discovery_row
from ledger.store import Store

SNIPPET_TOKENS = 24


class Hit(Struct, frozen=True):
    """An entry whose text has all the words."""

    id: str
    author: str
    kind: str
    lamport: int
    recorded_at: str
    snippet: str  # the surroundings of the words
    marks: tuple[Mark, ...]


class Ranked(Struct, frozen=True):
    """A discovery, and what others measured of it."""

    discovery: DiscoveryRow
    marks: tuple[Mark, ...]
    verified: bool  # confirmed by another node, and not retracted; else merely claimed
    remeasured: float | None  # bits per byte: the median over nodes that confirm it; None if none states an effect


def search(store: Store, words: str, *, limit: int = 20) -> list[Hit]:
    """Entries whose text has all the words, the best match (BM25) first; no words find nothing.

    Searched are hypotheses and reasons, and titles and texts of skills. Words have no syntax.
    """
    # To FTS5 a string in quotes is words that follow each other, and nothing in it is an operator.
    text = words.encode(errors="replace").decode().replace("\0", " ")
    quoted = " ".join('"' + word.replace('"', '""') + '"' for word in text.split())
    if not quoted:
        return []
    sql = """
        SELECT e.id, e.author, e.kind, e.lamport, e.recorded_at, found.snippet FROM (
            SELECT id, rank, snippet(entry_text, 2, '', '', '…', :tokens) AS snippet
            FROM entry_text WHERE entry_text MATCH :words ORDER BY rank LIMIT :limit
        ) AS found CROSS JOIN entries AS e ON e.id = found.id ORDER BY found.rank"""
    rows = list(store.db.query(sql, {"words": quoted, "limit": limit, "tokens": SNIPPET_TOKENS}))
    found = entry_marks(store, [(row["id"], row["author"]) for row in rows])
    return [Hit(**row, marks=found[row["id"]]) for row in rows]


def best(store: Store, track: str, *, limit: int = 10) -> list[Ranked]:
    """The best discoveries of a track: at most `limit` verified ones, then as many that nobody has checked.

    Verified ones are in the order of what others measured, claims in the order of what they claim. Effects are
    against each discovery's own parent. What is retracted is in neither, nor what is refuted and not confirmed.
    """
    measured = _confirmed_effects(store, track)
    order = sorted(measured, key=lambda found: (measured[found] is None, measured[found] or 0.0, found))[:limit]
    verified = [row for found in order for row in store.db.query(f"{DISCOVERIES} WHERE d.id = ?", (found,))]
    claimed = list(store.db.query(_CLAIMED, {"track": track, "limit": limit}))
    rows = [discovery_row(columns) for columns in (*verified, *claimed)]
    found = marks(store, rows)
    return [Ranked(row, found[row.id], row.id in measured, measured.get(row.id)) for row in rows]


def _confirmed_effects(store: Store, track: str) -> dict[str, float | None]:
    """What other nodes measured who confirm a discovery: the median of their means, by its id."""
    sql = """
        SELECT a.discovery, avg(a.mean) FROM attestations AS a CROSS JOIN discoveries AS d ON d.id = a.discovery
        WHERE a.verdict = 'confirmed' AND d.track = ? AND a.author <> d.author AND NOT EXISTS (
            SELECT 1 FROM retractions AS r WHERE r.discovery = a.discovery AND r.author IN (a.author, d.author))
        GROUP BY a.discovery, a.author"""
    means: dict[str, list[float]] = {}
    for found, mean in store.db.execute(sql, (track,)):
        means.setdefault(found, []).extend([] if mean is None else [mean])
    return {found: statistics.median(of_nodes) if of_nodes else None for found, of_nodes in means.items()}


_CLAIMED = f"""{DISCOVERIES}
    WHERE d.track = :track AND NOT EXISTS (SELECT 1 FROM retractions WHERE discovery = d.id AND author = d.author)
        AND NOT EXISTS (SELECT 1 FROM attestations AS a WHERE a.discovery = d.id AND a.author <> d.author
            AND (a.verdict = 'refuted' OR a.verdict = 'confirmed' AND NOT EXISTS
                (SELECT 1 FROM retractions AS r WHERE r.discovery = d.id AND r.author = a.author)))
    ORDER BY d.mean LIMIT :limit"""
