"""Counts over the whole ledger, and over each of its authors. `stats` and `peers` read all of some tables."""

import statistics
from collections import defaultdict

from msgspec import Struct

from ledger.store import Store


class Stats(Struct, frozen=True):
    """The ledger in numbers."""

    challenge: str  # SHA-256
    entries: dict[str, int]  # by kind
    authors: int
    banned: int  # of them; those who signed two histories
    discoveries: int
    confirmed: int  # discoveries that another node confirms
    refuted: int  # discoveries that another node refutes; a discovery can be both
    retracted: int  # discoveries that their authors retracted
    trials: dict[str, int]  # by status
    claim_error: float | None  # bits per byte: median of |claimed - measured by another|; None if nobody measured
    first_clock: int | None  # Lamport
    last_clock: int | None
    bytes_on_disk: int  # of the ledger's file with its write-ahead log


class Peer(Struct, frozen=True):
    """An author, by what is in this ledger."""

    author: str
    entries: int
    discoveries: int
    confirmed: int  # of its discoveries, by another node
    refuted: int
    attestations: int
    adoptions: int
    last_clock: int  # Lamport time of its last entry
    last_recorded_at: str  # the time on it, which is its author's word
    banned: bool  # there is proof that it signed two histories
    revoked: bool  # it has revoked its key
    hardware: tuple[str, ...]  # classes on which its last trials ran, and those behind its claims and verdicts


class Peers(Struct, frozen=True):
    """Who is in the ledger, and where others were last reached."""

    authors: tuple[Peer, ...]  # the last heard of first
    addresses: dict[str, str]  # multiaddr by peer id


def counts(store: Store) -> dict[str, int]:
    """How many entries of each kind."""
    return _numbers(store, "SELECT kind, count(*) FROM entries GROUP BY kind ORDER BY kind")


def _numbers(store: Store, sql: str) -> dict[str, int]:
    return {row[0]: row[1] for row in store.db.execute(sql)}


_JUDGED = """
    SELECT d.author, count(DISTINCT d.id) FROM attestations AS a CROSS JOIN discoveries AS d ON d.id = a.discovery
    WHERE a.author <> d.author AND a.verdict = '{}' AND NOT EXISTS (
        SELECT 1 FROM retractions AS r WHERE a.verdict = 'confirmed' AND r.discovery = d.id AND r.author = a.author)
    GROUP BY d.author"""
"""Discoveries that others judged so, by their authors."""


def stats(store: Store) -> Stats:
    """Numbers over all entries."""
    differences = """
        SELECT abs(a.mean - d.mean) FROM attestations AS a JOIN discoveries AS d ON d.id = a.discovery
        WHERE a.mean IS NOT NULL AND a.author <> d.author"""
    errors = [row[0] for row in store.db.execute(differences)]
    authors = [row[0] for row in store.db.execute("SELECT DISTINCT author FROM feeds")]
    retracted = """
        SELECT count(DISTINCT d.id) FROM retractions AS r JOIN discoveries AS d
        ON d.id = r.discovery AND d.author = r.author"""
    # Two questions: SQLite looks the least and the greatest up in an index only if it is asked for one of them.
    first, last = (store.db.execute(f"SELECT {what}(lamport) FROM entries").fetchone()[0] for what in ("min", "max"))
    files = (store.path.with_name(store.path.name + suffix) for suffix in ("", "-wal"))
    return Stats(
        challenge=store.challenge,
        entries=counts(store),
        authors=len(authors),
        banned=sum(map(store.is_banned, authors)),
        discoveries=store.db.execute("SELECT count(*) FROM discoveries").fetchone()[0],
        confirmed=sum(_numbers(store, _JUDGED.format("confirmed")).values()),
        refuted=sum(_numbers(store, _JUDGED.format("refuted")).values()),
        retracted=store.db.execute(retracted).fetchone()[0],
        trials=_numbers(store, "SELECT status, count(*) FROM trial_results GROUP BY status ORDER BY status"),
        claim_error=statistics.median(errors) if errors else None,
        first_clock=first,
        last_clock=last,
        bytes_on_disk=sum(file.stat().st_size for file in files if file.exists()),
    )


def peers(store: Store) -> Peers:
    """Every author with an entry, and all known addresses."""
    tables = ("discoveries", "attestations", "adoptions")
    made = {name: _numbers(store, f"SELECT author, count(*) FROM {name} GROUP BY author") for name in tables}
    judged = {verdict: _numbers(store, _JUDGED.format(verdict)) for verdict in ("confirmed", "refuted")}
    revoked = {row[0] for row in store.db.execute("SELECT DISTINCT author FROM revocations")}
    hardware = _hardware(store)
    last = """
        SELECT f.author, sum(f.seq + 1) AS entries, max(f.lamport) AS last_clock, e.recorded_at AS last_recorded_at
        FROM feeds AS f CROSS JOIN entries AS e USING (id) GROUP BY f.author ORDER BY last_clock DESC, f.author"""
    # A feed has no gaps, so its last place tells its length; a bare column goes with the row that has the maximum.
    authors = tuple(
        Peer(
            **row | {name: numbers.get(row["author"], 0) for name, numbers in (made | judged).items()},
            banned=store.is_banned(row["author"]),
            revoked=row["author"] in revoked,
            hardware=hardware.get(row["author"], ()),
        )
        for row in store.db.query(last)
    )
    return Peers(authors, store.peers())


def _hardware(store: Store) -> dict[str, tuple[str, ...]]:
    sql = """
        SELECT DISTINCT t.author, t.hardware FROM (
            SELECT id FROM feeds UNION SELECT trial FROM discoveries UNION SELECT trial FROM attestations
        ) AS named CROSS JOIN trials AS t USING (id) ORDER BY t.author, t.hardware"""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for author, hardware in store.db.execute(sql):
        found[author].append(hardware)
    return {author: tuple(classes) for author, classes in found.items()}
