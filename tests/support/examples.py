"""Small, valid statements for tests: each function makes one, with what a test cares about as arguments."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.author import Author
from ledger.envelope import Signed, peer_id
from ledger.predicates import (
    Adoption,
    Attestation,
    Comparison,
    Discovery,
    Entry,
    Hardware,
    Measurement,
    Trial,
    Verdict,
)
from ledger.store import Store

CHALLENGE = "c" * 64
TRACK = "cpu-quick"
HARDWARE = Hardware(machine="x86_64", cpu="a processor", cores=2, system="Linux", python="3.11", torch="2.13.0")


def key(number: int) -> Ed25519PrivateKey:
    """The same key for the same number."""
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def new_store(folder: Path, name: str = "ledger.db", challenge: str = CHALLENGE) -> Store:
    return Store.create(folder / name, challenge)


def author(store: Store, number: int = 1) -> Author:
    return Author(store, key(number), now=lambda: "2026-01-01T00:00:00Z")


def author_id(number: int) -> str:
    return peer_id(key(number).public_key())


def measurement(val_bpb: float | None = 3.0, status: str = "ok") -> Measurement:
    return Measurement(
        status=status if val_bpb is None else "ok",  # type: ignore[arg-type]
        val_bpb=val_bpb,
        evaluated_bytes=65536,
        budget_used_s=10.0,
        wall_s=14.0,
        peak_memory_bytes=300 * 2**20,
        weights_bytes=500_000,
        weights_sha256=digest("weights"),
        validation_sha256=digest("rows"),
        program_lines=150,
        hardware=HARDWARE,
    )


def state_trial(by: Author, program: str, seed: int, val_bpb: float | None, split: str = "public") -> Signed:
    def body(entry: Entry) -> Trial:
        result = measurement(val_bpb, "crash")
        return Trial(entry=entry, track=TRACK, seed=seed, split=split, result=result)

    return by.append("trials", program, body)


def comparison(
    by: Author, parent: str, child: str, scores: Sequence[tuple[float, float]], split: str = "public"
) -> Comparison:
    """With its trials stated: `scores` are (parent, child) in bits per byte for seeds 0, 1, …"""
    pairs = [
        (state_trial(by, parent, seed, before, split).id, state_trial(by, child, seed, after, split).id)
        for seed, (before, after) in enumerate(scores)
    ]
    differences = tuple(after - before for before, after in scores)
    mean = sum(differences) / len(differences)
    return Comparison(
        split=split,
        seeds=tuple(range(len(scores))),
        parent_trials=tuple(pair[0] for pair in pairs),
        child_trials=tuple(pair[1] for pair in pairs),
        differences=differences,
        mean=mean,
        low=mean - 0.05,
        high=mean + 0.05,
        p_value=0.01,
        noise=0.02,
    )


GAIN = ((3.10, 2.90), (3.12, 2.95), (3.11, 2.90))


def discovery_body(
    by: Author, parent: str, child: str, scores: Sequence[tuple[float, float]] = GAIN
) -> Callable[[Entry], Discovery]:
    evidence = comparison(by, parent, child, scores)
    return lambda entry: Discovery(
        entry=entry, track=TRACK, parent=parent, hypothesis="a smaller batch", proposer="evolve", comparison=evidence
    )


def state_discovery(by: Author, parent: str, child: str, scores: Sequence[tuple[float, float]] = GAIN) -> Signed:
    return by.append("main", child, discovery_body(by, parent, child, scores))


def state_attestation(by: Author, found: Signed, verdict: Verdict = "confirmed") -> Signed:
    return by.append(
        "main",
        found.statement.subject,
        lambda entry: Attestation(entry=entry, discovery=found.id, verdict=verdict, reason="own runs", comparison=None),
    )


def state_adoption(by: Author, program: str, found: Signed | None = None, previous: str | None = None) -> Signed:
    return by.append(
        "main",
        program,
        lambda entry: Adoption(
            entry=entry,
            track=TRACK,
            previous=previous,
            discovery=None if found is None else found.id,
            reason="it beats the incumbent",
            comparison=None,
        ),
    )
