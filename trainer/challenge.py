"""What a swarm works on. A challenge is fixed by its digest: the SHA-256 of its canonical JSON.

`challenge.toml` is for people; layout and comments do not change the digest. The canonical form (keys sorted, no
spaces) is itself a blob of the ledger, so a joining node fetches it by digest like anything else.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w
from msgspec import Meta, Struct

from ledger.predicates import PeerId, Sha256

EVALUATOR_VERSION = 1
CHALLENGE_BYTES_MAX = 64 * 1024
VOCAB_SIZE_BYTES = 256
MAINTAINERS_MAX = 64
TOKENIZER_BYTES_MAX = 16 * 2**20  # of a tokenizer's file


class ChallengeError(ValueError):
    """A challenge file that cannot be used; the message says where and why."""


class _Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CorpusRef(_Part, frozen=True, kw_only=True):
    """Which text, by the SHA-256 of its packed form (corpus.py)."""

    digest: Sha256
    bytes: Annotated[int, Meta(ge=1)]  # of text, without names and packing
    documents: Annotated[int, Meta(ge=2)]


class TokenizerRef(_Part, frozen=True, kw_only=True):
    """A byte-level BPE tokenizer (tokens.py), by the SHA-256 of its file."""

    digest: Sha256


class Split(_Part, frozen=True, kw_only=True):
    """Which documents validate: those whose keyed hash of (salt, document id) falls in the lowest share."""

    public_salt: Annotated[str, Meta(pattern="^[0-9a-f]{32}$", max_length=32)]
    validation_share: Annotated[float, Meta(gt=0, lt=1)] = 0.1


class Track(_Part, frozen=True, kw_only=True):
    """One class of compute; scores are compared within a track only."""

    device: Literal["cpu", "cuda"] = "cpu"
    clock: Literal["cpu", "wall"] = "cpu"  # what the budget counts: CPU time of the whole process tree, or wall time
    budget_s: Annotated[float, Meta(gt=0, le=86400)] = 10.0
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    memory_bytes: Annotated[int, Meta(ge=2**28)] = 2 * 2**30
    seq_len: Annotated[int, Meta(ge=8, le=65536)] = 128  # tokens of context at evaluation
    eval_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024
    baseline: Sha256  # of the program's text

    def __post_init__(self) -> None:
        if self.device == "cuda" and self.clock != "wall":
            raise ValueError('a track with device "cuda" needs clock "wall": CPU time says nothing about a GPU\'s work')


class Challenge(_Part, frozen=True, kw_only=True):
    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$", max_length=63)]
    evaluator: Annotated[int, Meta(ge=EVALUATOR_VERSION, le=EVALUATOR_VERSION)] = EVALUATOR_VERSION
    founder: PeerId
    maintainers: Annotated[tuple[PeerId, ...], Meta(max_length=MAINTAINERS_MAX)] = ()  # none named: the founder alone
    constitution: Sha256  # of the canonical form of the first one, which the maintainers can amend
    tokenizer: Literal["bytes"] | TokenizerRef = "bytes"
    corpus: CorpusRef
    split: Split
    tracks: Annotated[dict[str, Track], Meta(min_length=1, max_length=64)]

    def __post_init__(self) -> None:
        if len(set(self.maintainers)) < len(self.maintainers):
            raise ValueError("a maintainer is named twice")
        if not self.maintainers:  # spelled out, so that one meaning has one digest
            msgspec.structs.force_setattr(self, "maintainers", (self.founder,))

    def canonical(self) -> bytes:
        """Canonical JSON: every field present, keys sorted, no spaces, shortest float form."""
        return msgspec.json.encode(self, order="sorted")

    def digest(self) -> str:
        """SHA-256 of the canonical form, hex: the swarm's name."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def to_toml(self) -> str:
        return tomli_w.dumps(msgspec.to_builtins(self))


def from_canonical(data: bytes) -> Challenge:
    """Read what `canonical` wrote, as it comes from a peer. Raises `ChallengeError`."""
    if len(data) > CHALLENGE_BYTES_MAX:
        raise ChallengeError(f"challenge of {len(data)} bytes is over the limit of {CHALLENGE_BYTES_MAX}")
    try:
        return msgspec.json.decode(data, type=Challenge)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChallengeError(f"unusable challenge: {error}") from error


def load(path: Path) -> Challenge:
    """Read a `challenge.toml`. Raises `ChallengeError`, naming the file and the field at fault."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), type=Challenge)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.MsgspecError) as error:
        raise ChallengeError(f"{path}: {error}") from error
