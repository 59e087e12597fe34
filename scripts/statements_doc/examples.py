"""One statement of each type, from the story of one discovery. Keys and times are fixed, so each run gives the same."""

import base64
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.author import Author
from ledger.envelope import Signed, consent_bytes, peer_id
from ledger.predicates import (
    Adoption,
    Amendment,
    Attestation,
    Audit,
    Claim,
    Comparison,
    Discovery,
    Entry,
    Gate,
    Hardware,
    Lesson,
    Measurement,
    Retraction,
    Reveal,
    Skill,
    Successor,
    Trial,
)
from ledger.statements import commit
from ledger.store import Store

CHALLENGE = hashlib.sha256(b"the challenge").hexdigest()
TRACK = "cpu-quick"
SEEDS = (11, 12, 13)
SALT = bytes(range(32))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


PARENT, CHILD, RULES = digest("the parent program"), digest("the child program"), digest("the constitution")


def signed_examples() -> list[Signed]:
    """One statement of each type, in the order in which they were made."""
    with TemporaryDirectory() as folder:
        store = Store.create(Path(folder, "ledger.db"), CHALLENGE)
        story = _Story(store)
        found = [*story.research(), *story.judgement(), *story.government(), *story.keys()]
        store.close()
        return found


def _key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


class _Story:
    """A finder, a verifier, and what they state."""

    def __init__(self, store: Store) -> None:
        self.finder, self.verifier = (Author(store, _key(n), now=lambda: "2026-01-01T00:00:00Z") for n in (1, 2))
        self.discovery = ""
        self.attestation = ""

    def research(self) -> list[Signed]:
        hypothesis = "BATCH from 16 to 12: more steps in the same budget"
        claim = self.finder.append(
            "main",
            CHILD,
            lambda entry: Claim(
                entry=entry,
                track=TRACK,
                parent=PARENT,
                hypothesis=hypothesis,
                proposer="evolve",
                operator="constant:BATCH",
                fingerprint=hashlib.sha256(b"BATCH lowered").hexdigest(),
            ),
        )
        trials, comparison = _compare(self.finder, "public")
        discovery = self.finder.append(
            "main",
            CHILD,
            lambda entry: Discovery(
                entry=entry,
                track=TRACK,
                parent=PARENT,
                hypothesis=hypothesis,
                proposer="evolve",
                comparison=comparison,
            ),
        )
        self.discovery = discovery.id
        adoption = self.finder.append(
            "main",
            CHILD,
            lambda entry: Adoption(
                entry=entry,
                track=TRACK,
                previous=PARENT,
                discovery=discovery.id,
                reason="own discovery, -0.0800 bpb",
                comparison=None,
            ),
        )
        return [claim, trials[-1], discovery, adoption]

    def judgement(self) -> list[Signed]:
        _, comparison = _compare(self.verifier, commit(SALT))
        attestation = self.verifier.append(
            "main",
            CHILD,
            lambda entry: Attestation(
                entry=entry,
                discovery=self.discovery,
                verdict="confirmed",
                reason="-0.0800 bpb over 3 pairs on a private split",
                comparison=comparison,
            ),
        )
        lesson = "Smaller batches gain as long as the number of steps is what limits a budget.\n"
        skill = self.verifier.append(
            "main",
            digest(lesson),
            lambda entry: Skill(
                entry=entry,
                title="steps before batch size",
                text=lesson,
                replaces=None,
                retired=False,
                evidence=(self.discovery, attestation.id),
            ),
        )
        reveal = self.verifier.append(
            "main", hashlib.sha256(SALT).hexdigest(), lambda entry: Reveal(entry=entry, salt=SALT.hex())
        )
        retraction = self.verifier.append(
            "main",
            CHILD,
            lambda entry: Retraction(
                entry=entry,
                discovery=self.discovery,
                reason="the private split shared documents with the training text",
                comparison=None,
                evidence=(attestation.id,),
            ),
        )
        change = "BATCH lowered; WIDTH raised"
        failure = self.verifier.append(
            "main",
            digest(change),
            lambda entry: Lesson(
                entry=entry,
                track=TRACK,
                fingerprint=digest("the change, normalised"),
                failure="crash:RuntimeError",
                rung="warning",
                tried=3,
                failed=2,
                change=change,
                replaces=None,
                evidence=(),
            ),
        )
        return [attestation, skill, reveal, retraction, failure]

    def government(self) -> list[Signed]:
        gate = self.finder.append(
            "main",
            RULES,
            lambda entry: Gate(
                entry=entry, previous="RUN", state="THROTTLE", commanded=False, reason="the disk is 90 % full"
            ),
        )
        amendment = self.finder.append(
            "main",
            digest("the constitution as it would be"),
            lambda entry: Amendment(
                entry=entry, previous=RULES, proposal=None, reason="trials may take four gibibytes of memory"
            ),
        )
        return [gate, amendment]

    def keys(self) -> list[Signed]:
        checkpoint = self.finder.checkpoint("trials")
        reset = self.finder.reset("the disk was lost; this is a backup of the day before", number=1767225600)
        successor = _key(3)
        consent = base64.b64encode(successor.sign(consent_bytes(CHALLENGE, self.finder.id))).decode()
        revocation = self.finder.revoke(
            "the backup was stolen", Successor(peer=peer_id(successor.public_key()), consent=consent)
        )
        return [checkpoint, reset, revocation]


def _compare(author: Author, split: str) -> tuple[list[Signed], Comparison]:
    """Three pairs, in which the child is 0.08 bits per byte better in the mean."""
    scores = [(3.12, 3.03), (3.10, 3.03), (3.11, 3.03)]
    trials = [
        _trial(author, program, seed, split, val_bpb)
        for seed, pair in zip(SEEDS, scores, strict=True)
        for program, val_bpb in zip((PARENT, CHILD), pair, strict=True)
    ]
    comparison = Comparison(
        split=split,
        seeds=SEEDS,
        parent_trials=tuple(trial.id for trial in trials[::2]),
        child_trials=tuple(trial.id for trial in trials[1::2]),
        differences=tuple(round(after - before, 6) for before, after in scores),
        mean=-0.08,
        low=-0.105,
        high=-0.055,
        p_value=0.0026,
        noise=0.012,
    )
    return trials, comparison


def _trial(author: Author, program: str, seed: int, split: str, val_bpb: float) -> Signed:
    result = Measurement(
        status="ok",
        val_bpb=val_bpb,
        evaluated_bytes=65536,
        budget_used_s=9.96,
        wall_s=14.2,
        peak_memory_bytes=399224832,
        weights_bytes=528197,
        weights_sha256=digest(f"weights of {program} with seed {seed}"),
        validation_sha256=digest("validation rows"),
        program_lines=163,
        hardware=Hardware(
            machine="x86_64", cpu="AMD EPYC", cores=2, system="Linux 6.18", python="3.11.7", torch="2.13.0+cpu"
        ),
        audit=Audit(cuts=512, targeted=128, tolerance_bits=0.001, largest_bits=1.2e-06, mean_bits=-1.3e-08),
    )

    def body(entry: Entry) -> Trial:
        return Trial(entry=entry, track=TRACK, seed=seed, split=split, result=result)

    return author.append("trials", program, body)
