"""Ledgers to measure, of any size: teams of four authors, each at work for up to 10,000 entries.

A team writes what four nodes write: for each discovery ten trials of its author, ten of each of two verifiers, and 64
of candidates that came to nothing; a claim, two attestations and two adoptions. 94 of 100 entries are trials. Every
entry is signed and kept by the product's own `Author` and `Store`. A larger ledger has more teams, not longer lineages,
so that the same question has an answer of the same size in each. The same number makes the same team.
"""

import functools
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benches.trials import program
from ledger.author import Author
from ledger.envelope import read_unchecked
from ledger.predicates import (
    Adoption,
    Attestation,
    Audit,
    Claim,
    Comparison,
    Discovery,
    Entry,
    Hardware,
    Measurement,
    Trial,
)
from ledger.statements import commit
from ledger.store import Store

CHALLENGE = "c" * 64
AUTHORS = 4  # of a team
ROUNDS = 100  # of a team, at most
ROUND_ENTRIES = 100  # one of them a discovery
LINE_STEPS = 20  # discoveries from one baseline on, each built on one of the two before it

_PAIRS = 5
_FAILED_PAIRS = 32
_TRACK = "cpu-quick"
_CHANGES = (  # what the evolving proposer says of them
    ("WARMUP_SHARE", "less of the budget goes to small early updates"),
    ("WARMDOWN_SHARE", "more of the budget is spent at the full rate"),
    ("LEARNING_RATE", "larger updates go further in the few steps of the budget"),
    ("BATCH", "more updates fit the budget"),
    ("CONTEXT", "cheaper steps let more updates fit the budget"),
    ("WIDTH", "a larger model learns more from each byte"),
    ("WEIGHT_DECAY", "weaker decay leaves a short run more of what it has learned"),
    ("INIT_STD", "larger initial weights give stronger early gradients"),
)
_VALIDATION_ROWS = hashlib.sha256(b"rows").hexdigest()
_HARDWARE = Hardware(
    machine="x86_64", cpu="AMD EPYC", cores=2, system="Linux 6.18.44-generic", python="3.11.7", torch="2.13.0+cpu"
)
_CACHE_KIB = 512 * 1024  # of pages, while a ledger is built: ids are random, so inserts go all over its indexes


def program_text(team: int, step: int) -> bytes:
    """The child program of a team's discovery; step -1 is the baseline of all lines."""
    number = 0 if step < 0 else 1 + team * ROUNDS + step
    return _programs()[0] + b"%.9f" % (0.001 + number * 1e-9) + _programs()[1]


@functools.cache
def _programs() -> tuple[bytes, bytes]:
    """What stands before and behind the learning rate."""
    before, _, behind = program("cpu_quick.py").partition(b"LEARNING_RATE = 1e-3")
    return before + b"LEARNING_RATE = ", behind


def fill(store: Store, teams: int, rounds: int, say: Callable[[str], None]) -> None:
    """Add what so many teams write in so many rounds; all cores make it."""
    store.db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    added = 0
    for envelopes in _worked(teams, rounds, store.challenge):
        with store.batch():
            for envelope in envelopes:
                store.add(read_unchecked(envelope))
        added += len(envelopes)
        say(f"{added:,} of {teams * rounds * ROUND_ENTRIES:,} entries")


def put_programs(store: Store, teams: int, rounds: int) -> None:
    """Keep the texts of the programs that these teams found, and of the baseline."""
    with store.batch():
        store.blobs.put(program_text(0, -1))
        for team in range(teams):
            for step in range(rounds):
                store.blobs.put(program_text(team, step))


def _worked(teams: int, rounds: int, challenge: str) -> Iterator[list[bytes]]:
    if teams == 1:
        yield work(0, rounds, challenge)
        return
    with multiprocessing.get_context("spawn").Pool(min(teams, os.cpu_count() or 1)) as pool:
        yield from pool.imap(functools.partial(work, rounds=rounds, challenge=challenge), range(teams))


def work(team: int, rounds: int, challenge: str = CHALLENGE) -> list[bytes]:
    """The envelopes of a team, in the order in which they were made: every feed, and causes before effects."""
    with TemporaryDirectory() as folder:
        store = Store.create(Path(folder, "ledger.db"), challenge)
        with store.batch():
            one = Team(store, team)
            for index in range(rounds):
                one.round(index)
        envelopes = [envelope for (envelope,) in store.db.execute("SELECT envelope FROM entries ORDER BY rowid")]
        store.close()
        return envelopes


class Team:
    """Four authors who build on each other's discoveries."""

    def __init__(self, store: Store, number: int) -> None:
        self._number = number
        self._random = Random(number)
        keys = [(number * AUTHORS + index + 1).to_bytes(32, "big") for index in range(AUTHORS)]
        self._authors = [
            Author(store, Ed25519PrivateKey.from_private_bytes(key), now=lambda: "2026-01-01T00:00:00Z") for key in keys
        ]

    def round(self, index: int) -> None:
        """One discovery, from the candidates that came before it to its adoption by another: 100 entries."""
        finder, *others = (self._authors[(index + turn) % AUTHORS] for turn in range(AUTHORS))
        step = index % LINE_STEPS
        ancestor = index - (2 if step % 3 == 2 else 1)
        parent = self._digest(ancestor if step else -1)
        child = self._digest(index)
        for number in range(_FAILED_PAIRS):
            candidate = self._random.randbytes(32).hex()
            self._pair(self._authors[number % AUTHORS], parent, candidate, "public", gain=-0.02)
        name, why = self._random.choice(_CHANGES)
        hypothesis = f"{name} from {self._random.random():.4g} to {self._random.random():.4g}: {why}"
        finder.append(
            "main", child, lambda entry: Claim(entry=entry, track=_TRACK, parent=parent, hypothesis=hypothesis)
        )
        comparison = self._comparison(finder, parent, child, "public")
        found = finder.append(
            "main",
            child,
            lambda entry: Discovery(
                entry=entry,
                track=_TRACK,
                parent=parent,
                hypothesis=hypothesis,
                proposer="evolve",
                comparison=comparison,
            ),
        ).id
        self._adopt(finder, child, parent, found, f"own discovery, {comparison.mean:+.4f} bpb")
        for verifier in others[:2]:
            self._attest(verifier, parent, child, found)
        self._adopt(others[0], child, parent, found, "confirmed by own runs, and better than the incumbent")

    def _attest(self, verifier: Author, parent: str, child: str, found: str) -> None:
        comparison = self._comparison(verifier, parent, child, commit(verifier.id.encode()))
        verifier.append(
            "main",
            child,
            lambda entry: Attestation(
                entry=entry,
                discovery=found,
                verdict="confirmed",
                reason=f"{comparison.mean:+.4f} bpb over {_PAIRS} pairs on a private split",
                comparison=comparison,
            ),
        )

    def _adopt(self, author: Author, child: str, parent: str, found: str, reason: str) -> None:
        author.append(
            "main",
            child,
            lambda entry: Adoption(
                entry=entry, track=_TRACK, previous=parent, discovery=found, reason=reason, comparison=None
            ),
        )

    def _comparison(self, author: Author, parent: str, child: str, split: str) -> Comparison:
        pairs = [self._pair(author, parent, child, split, gain=0.03) for _ in range(_PAIRS)]
        seeds, parents, children, differences = zip(*pairs, strict=True)
        mean = sum(differences) / _PAIRS
        return Comparison(
            split=split,
            seeds=seeds,
            parent_trials=parents,
            child_trials=children,
            differences=differences,
            mean=mean,
            low=mean - 0.0123456789,
            high=mean + 0.0123456789,
            p_value=0.0034177689,
            noise=0.0390968662,
        )

    def _pair(self, author: Author, parent: str, child: str, split: str, *, gain: float) -> tuple[int, str, str, float]:
        """Seed, the parent's trial and the child's, and the difference in bits per byte."""
        seed = self._random.randrange(2**31)
        before = 3.0 + self._random.random() / 10
        after = before - gain * self._random.random()
        first, second = (
            self._trial(author, digest, seed, split, score) for digest, score in ((parent, before), (child, after))
        )
        return seed, first, second, after - before

    def _trial(self, author: Author, digest: str, seed: int, split: str, val_bpb: float) -> str:
        result = self._measurement(val_bpb)

        def body(entry: Entry) -> Trial:
            return Trial(entry=entry, track=_TRACK, seed=seed, split=split, result=result)

        return author.append("trials", digest, body).id

    def _measurement(self, val_bpb: float) -> Measurement:
        chance = self._random
        return Measurement(
            status="ok",
            val_bpb=val_bpb,
            evaluated_bytes=65536,
            budget_used_s=10 - chance.random() / 10,
            wall_s=14 + chance.random(),
            peak_memory_bytes=400_000_000 + chance.randrange(2**20),
            weights_bytes=528_197,
            weights_sha256=chance.randbytes(32).hex(),
            validation_sha256=_VALIDATION_ROWS,
            program_lines=163,
            hardware=_HARDWARE,
            audit=Audit(
                cuts=512,
                targeted=128,
                tolerance_bits=0.001,
                largest_bits=chance.random() * 1e-5,
                mean_bits=chance.random() * 1e-7,
            ),
        )

    def _digest(self, step: int) -> str:
        return hashlib.sha256(program_text(self._number, step)).hexdigest()
