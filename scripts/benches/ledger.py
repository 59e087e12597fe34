"""What it costs to sign, verify, index and keep: against bare SQLite, against bare verification, large against small.

append   own entries per second, each signed and durable, against bare durable inserts of the same envelopes; what is
         left of those with a signature before each; and against sqlite3 alone with the same rows and indexes
ingest   entries of others per second, from bytes to disk in pages as sync sends them, against a loop that verifies
         the same signatures with keys and messages at hand
scale    questions to a ledger of 1,000,000 entries against one of 10,000, and bytes on disk
fsck     entries per second of a whole check, against the same loop

Ledgers are made in the working folder, because where temporary files go may be memory. The large one takes 3 GB.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from benches import entries
from benches.report import Effort, Goal, Outcome, Parts, Row, row
from gossip.limits import PAGE_BYTES_MAX
from ledger import fsck as integrity
from ledger import queries
from ledger.author import Author
from ledger.envelope import Envelope, Signed, open_envelope, pae, public_key, read_unchecked
from ledger.opening import open_all
from ledger.predicates import Entry, Trial
from ledger.store import PRAGMAS, Store
from ledger.tables import UPSERT_HEAD
from node import story

APPEND_GOAL = 0.7
INGEST_GOAL = 0.6
SCALE_GOAL = 3.0
DISK_GOAL = 2.0

SLICE = 500  # entries between turns of figure and reference
SMALL_TEAMS, LARGE_TEAMS = 1, 100
ROUNDS = entries.ROUNDS  # of each team

SqlRow = tuple[object, ...]
Ask = Callable[[Store, queries.DiscoveryRow], object]
WITH_GOALS: dict[str, Ask] = {
    "show": story.discovery_story,
    "lineage": lambda store, row: queries.lineage_of(store, row.id),
    "search for a name and a value": lambda store, row: queries.search(store, _name_and_value(row)),
}
WITHOUT_GOALS: dict[str, Ask] = {  # what they read grows with the ledger
    "search for a name alone": lambda store, row: queries.search(store, row.hypothesis.split()[0]),
    "search for a whole hypothesis": lambda store, row: queries.search(store, row.hypothesis),
    "log, the last 50": lambda store, row: queries.log(store),
    "best of the track": lambda store, row: queries.best(store, row.track),
}


def _name_and_value(row: queries.DiscoveryRow) -> str:
    """`LEARNING_RATE 0.0014`, from `LEARNING_RATE from 0.001 to 0.0014: …`."""
    words = row.hypothesis.split()
    return f"{words[0]} {words[4].rstrip(':')}"


def append(effort: Effort) -> Outcome:
    statements = [read_unchecked(envelope).statement for envelope in entries.work(0, 10)]
    trials = [(one.subject, one.body) for one in statements if isinstance(one.body, Trial)][:SLICE]
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    own: list[float] = []
    bare: list[float] = []
    signed: list[float] = []
    same: list[float] = []
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        store = Store.create(folder / "ledger.db", entries.CHALLENGE)
        stack.callback(store.close)
        Store.create(folder / "same.db", entries.CHALLENGE).close()
        only, signing, all_rows = (
            stack.enter_context(_sqlite(folder / f"{name}.db")) for name in ("bare", "key", "same")
        )
        for database in (only, signing):
            database.execute("CREATE TABLE entries (id TEXT PRIMARY KEY, envelope BLOB NOT NULL)")
        author = Author(store, key)
        for index in effort.repeat(10, 30):
            effort.say(f"append: turn {index + 1}")
            own.append(_rate(SLICE, partial(_append, author, trials)))
            added, results = (_newest(store.db.conn, table) for table in ("entries", "trial_results"))
            bare.append(_rate(SLICE, partial(_insert_envelopes, only, added)))
            signed.append(_rate(SLICE, partial(_insert_envelopes, signing, added, key.sign)))
            same.append(_rate(SLICE, partial(_insert_rows, all_rows, added, results)))
    rates = row("own durable appends", own, "entries/s", "sqlite3 alone: id and envelope", bare, paired=True)
    goal = Goal(
        what="own durable appends / bare durable inserts", figure=rates.ratio or 0.0, bound="at least", goal=APPEND_GOAL
    )
    return Outcome(
        [
            rates,
            row("id and envelope, a signature before each", signed, "entries/s", "without", bare, paired=True),
            row("own durable appends", own, "entries/s", "sqlite3 alone: the same rows", same, paired=True),
        ],
        [goal],
    )


def _append(author: Author, trials: Sequence[tuple[str, Trial]]) -> None:
    for subject, trial in trials:

        def body(entry: Entry, trial: Trial = trial) -> Trial:
            return msgspec.structs.replace(trial, entry=entry)

        author.append("trials", subject, body)


@contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """As durable as a ledger, without it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for pragma in ("journal_mode = WAL", *PRAGMAS):
            database.execute(f"PRAGMA {pragma}")
        yield database


def _newest(database: sqlite3.Connection, table: str) -> list[SqlRow]:
    """The rows of the last turn, oldest first."""
    return database.execute(f"SELECT * FROM {table} ORDER BY rowid DESC LIMIT ?", (SLICE,)).fetchall()[::-1]


def _insert_envelopes(
    database: sqlite3.Connection, rows: Sequence[SqlRow], before: Callable[[bytes], object] = lambda envelope: None
) -> None:
    for _, entry_id, *_, envelope in rows:
        assert isinstance(envelope, bytes), "the last column"
        before(envelope)
        database.execute("INSERT INTO entries VALUES (?, ?)", (entry_id, envelope))


def _insert_rows(database: sqlite3.Connection, added: Sequence[SqlRow], results: Sequence[SqlRow]) -> None:
    """All that an append writes: the entry, what its trial came to, and the head of its feed."""
    into_entries = f"INSERT INTO entries VALUES ({', '.join('?' * len(added[0]))})"
    into_results = f"INSERT INTO trial_results VALUES ({', '.join('?' * len(results[0]))})"
    for entry, result in zip(added, results, strict=True):
        _, entry_id, author, feed, seq, _, lamport, *_ = entry
        database.execute("BEGIN IMMEDIATE")
        database.execute(into_entries, entry)
        database.execute(into_results, result)
        database.execute(UPSERT_HEAD, (author, feed, seq, entry_id, lamport))
        database.execute("COMMIT")


def ingest(effort: Effort) -> Outcome:
    whole: list[float] = []
    verifying: list[float] = []
    with _folder() as folder:
        for index in effort.repeat(1, 5):
            effort.say(f"ingest: {_entries(1)} of team {index}")
            envelopes = entries.work(index, ROUNDS)
            store = Store.create(folder / f"{index}.db", entries.CHALLENGE)
            for part in _slices(envelopes):
                verifying.append(_rate(SLICE, partial(_verify, _checks(part))))
                whole.append(_rate(SLICE, partial(_ingest, store, part)))
            store.close()
    taken = row("entries of others, checked and kept", whole, "entries/s", "signatures only", verifying, paired=True)
    goal = Goal(
        what="ingest of others' entries / verifying their signatures",
        figure=taken.ratio or 0.0,
        bound="at least",
        goal=INGEST_GOAL,
    )
    return Outcome([taken], [goal])


Check = tuple[Ed25519PublicKey, bytes, bytes]  # key, signature, message


def _checks(envelopes: Sequence[bytes]) -> list[Check]:
    read = [msgspec.msgpack.decode(data, type=Envelope) for data in envelopes]
    return [
        (public_key(one.signatures[0].keyid), one.signatures[0].sig, pae(one.payloadType, one.payload)) for one in read
    ]


def _verify(checks: Sequence[Check]) -> None:
    for key, signature, message in checks:
        key.verify(signature, message)


def _ingest(store: Store, envelopes: Sequence[bytes]) -> None:
    for page in _pages(envelopes):
        checked = list(open_all(page, open_envelope))
        with store.batch(refetchable=True):
            for signed in checked:
                assert isinstance(signed, Signed), "it was made here"
                store.add(signed)


def _pages(envelopes: Sequence[bytes]) -> Iterator[list[bytes]]:
    """As a peer cuts them; each is one transaction."""
    page: list[bytes] = []
    size = 0
    for envelope in envelopes:
        if page and size + len(envelope) > PAGE_BYTES_MAX:
            yield page
            page, size = [], 0
        page.append(envelope)
        size += len(envelope)
    yield page


def _slices(envelopes: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (envelopes[start : start + SLICE] for start in range(0, len(envelopes), SLICE))


def scale(effort: Effort) -> Outcome:
    asked: dict[str, Row] = {}
    with _folder() as folder:
        small, _ = _built(folder / "small.db", SMALL_TEAMS, effort)
        large, disk = _built(folder / "large.db", LARGE_TEAMS, effort)
        against = _entries(SMALL_TEAMS)
        for what, ask in {**WITH_GOALS, **WITHOUT_GOALS}.items():
            effort.say(f"scale: {what}")
            times = [
                [_milliseconds(ask, store.path, _discovery(store, index)) for index in effort.repeat(60, 300)]
                for store in (large, small)
            ]
            asked[what] = row(what, times[0], "ms", against, times[1])
        effort.say("scale: ingest")
        more = entries.work(LARGE_TEAMS, 20)
        rates = [[_rate(SLICE, partial(_ingest, store, part)) for part in _slices(more)] for store in (large, small)]
        large.close()
        small.close()
    goals = [
        Goal(
            what=f"{what}, {_entries(LARGE_TEAMS)} / {against}",
            figure=asked[what].ratio or 0.0,
            bound="at most",
            goal=SCALE_GOAL,
        )
        for what in WITH_GOALS
    ]
    goals.append(
        Goal(what="bytes on disk / bytes of envelopes", figure=disk.ratio or 0.0, bound="at most", goal=DISK_GOAL)
    )
    return Outcome([*asked.values(), row("ingest", rates[0], "entries/s", against, rates[1]), disk], goals)


def _built(path: Path, teams: int, effort: Effort) -> tuple[Store, Row]:
    """A ledger of that many teams, and what an entry takes on disk, programs apart."""
    store = Store.create(path, entries.CHALLENGE)
    entries.fill(store, teams, ROUNDS, lambda line: effort.say(f"scale: {line}"))
    store.close()
    store = Store.open(path)
    count, envelope_bytes = store.db.execute("SELECT count(*), sum(length(envelope)) FROM entries").fetchone()
    disk = row("on disk, an entry", [path.stat().st_size / count], "bytes", "its envelope", [envelope_bytes / count])
    entries.put_programs(store, teams, ROUNDS)
    store.tidy()  # as a node does when it starts
    return store, disk


def _discovery(store: Store, index: int) -> queries.DiscoveryRow:
    """One of the discoveries: for one index, at one step of a line, however many teams there are."""
    count = store.db.execute("SELECT count(*) FROM discoveries").fetchone()[0]
    place = index * 37 % (count // ROUNDS) * ROUNDS + index * 7 % ROUNDS
    found = store.db.execute("SELECT id FROM discoveries ORDER BY rowid LIMIT 1 OFFSET ?", (place,)).fetchone()[0]
    listed = queries.discovery(store, found)
    assert listed is not None, "it was just selected"
    return listed


def fsck(effort: Effort) -> Outcome:
    whole: list[float] = []
    verifying: list[float] = []
    with _folder() as folder:
        store = Store.create(folder / "ledger.db", entries.CHALLENGE)
        entries.fill(store, 1, ROUNDS, lambda line: effort.say(f"fsck: {line}"))
        entries.put_programs(store, 1, ROUNDS)
        checks = _checks([envelope for (envelope,) in store.db.execute("SELECT envelope FROM entries")])
        for index in effort.repeat(3, 10):
            effort.say(f"fsck: {index + 1}")
            verifying.append(_rate(len(checks), partial(_verify, checks)))
            whole.append(_rate(len(checks), partial(_check_all, store)))
        store.close()
    return Outcome([row("fsck", whole, "entries/s", "signatures only", verifying, paired=True)])


def _check_all(store: Store) -> None:
    """Raises `RuntimeError` if more than notes is found."""
    if wrong := [finding for finding in integrity.fsck(store) if finding.severity != "note"]:
        raise RuntimeError(f"a new ledger is damaged: {wrong[0]}")


def _entries(teams: int) -> str:
    return f"{teams * ROUNDS * entries.ROUND_ENTRIES:,} entries"


def _milliseconds(ask: Ask, path: Path, found: queries.DiscoveryRow) -> float:
    """Of a ledger that was opened for this question, as a command does it: SQLite has none of its pages yet."""
    store = Store.open(path)
    try:
        return 1000 * _seconds(lambda: ask(store, found))
    finally:
        store.close()


def _rate(count: int, work: Callable[[], object]) -> float:
    """Per second."""
    return count / _seconds(work)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="bench-ledger-", dir=Path.cwd()) as name:
        yield Path(name)


PARTS: Parts = {"append": append, "ingest": ingest, "scale": scale, "fsck": fsck}
