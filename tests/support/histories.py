"""Statements of the kinds that examples.py has not, and authors who sign two histories."""

import hashlib
from collections.abc import Sequence

import examples
import msgspec
import pytest

from ledger.author import Author
from ledger.envelope import Signed, payload_of, seal
from ledger.errors import Equivocation
from ledger.predicates import (
    Amendment,
    Attestation,
    Claim,
    Comparison,
    Discovery,
    Gate,
    Lesson,
    Retraction,
    Reveal,
    Skill,
    Verdict,
)
from ledger.store import Store


def state_hypothesis(by: Author, parent: str, child: str, hypothesis: str, gain: float = 0.2) -> Signed:
    """A discovery of which one can choose what it says, and how much it claims."""
    body = examples.discovery_body(by, parent, child, [(3.0, 3.0 - gain)] * 3)
    return by.append("main", child, lambda entry: msgspec.structs.replace(body(entry), hypothesis=hypothesis))


def state_measured(by: Author, found: Signed, verdict: Verdict, scores: Sequence[tuple[float, float]]) -> Signed:
    """An attestation with trials of its own: `scores` are (parent, child) in bits per byte."""
    body = found.statement.body
    assert isinstance(body, Discovery)
    evidence: Comparison = examples.comparison(by, body.parent, found.statement.subject, scores)
    return by.append(
        "main",
        found.statement.subject,
        lambda entry: Attestation(
            entry=entry, discovery=found.id, verdict=verdict, reason="own runs", comparison=evidence
        ),
    )


def state_retraction(by: Author, found: Signed, reason: str = "it does not hold") -> Signed:
    return by.append(
        "main",
        found.statement.subject,
        lambda entry: Retraction(entry=entry, discovery=found.id, reason=reason, comparison=None, evidence=()),
    )


def state_skill(by: Author, title: str, text: str) -> Signed:
    return by.append(
        "main",
        examples.digest(text),
        lambda entry: Skill(entry=entry, title=title, text=text, replaces=None, retired=False, evidence=()),
    )


def state_every_other_kind(by: Author, program: str) -> list[Signed]:
    """One statement of each kind that neither this module nor examples.py has a function for; the key is void then."""
    salt = "ab" * 16
    constitution = "d" * 64
    return [
        by.append(
            "main",
            program,
            lambda entry: Claim(entry=entry, track=examples.TRACK, parent="a" * 64, hypothesis="fewer layers"),
        ),
        by.append(
            "main",
            constitution,
            lambda entry: Gate(entry=entry, previous="RUN", state="FREEZE", commanded=True, reason="costs"),
        ),
        by.append(
            "main",
            constitution,
            lambda entry: Amendment(entry=entry, previous="e" * 64, proposal=None, reason="a higher limit"),
        ),
        by.append(
            "main", hashlib.sha256(bytes.fromhex(salt)).hexdigest(), lambda entry: Reveal(entry=entry, salt=salt)
        ),
        by.append(
            "main",
            examples.digest("WIDTH raised"),
            lambda entry: Lesson(
                entry=entry,
                track=examples.TRACK,
                fingerprint="f" * 64,
                failure="out_of_memory",
                rung="prose",
                tried=1,
                failed=1,
                change="WIDTH raised",
                replaces=None,
                evidence=(),
            ),
        ),
        by.checkpoint("main"),
        by.revoke("the key was lost"),
    ]


def state_newer(by_number: int, store: Store, after: Signed) -> Signed:
    """A statement of a type that this version does not know, right after `after` in its feed."""
    payload = msgspec.json.decode(payload_of(after.envelope))
    payload["predicateType"] = "urn:waggle:dream:v1"
    entry = payload["predicate"]["entry"]
    entry |= {"seq": entry["seq"] + 1, "prev": after.id, "lamport": store.clock() + 1}
    signed = seal(examples.key(by_number), msgspec.json.encode(payload))
    store.add(signed)
    return signed


def equivocate(store: Store, number: int, said: Signed) -> None:
    """The author with this number signs another entry for the place of `said`, which is kept as proof."""
    payload = msgspec.json.decode(payload_of(said.envelope))
    payload["predicate"]["entry"]["recorded_at"] = "another time"
    with pytest.raises(Equivocation):
        store.add(seal(examples.key(number), msgspec.json.encode(payload)))
