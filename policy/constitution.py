"""The rules of a swarm that its search cannot change. A constitution is fixed by its digest, as a challenge is.

It has two parts. *Articles* are prose, and nothing changes them: the code keeps them, and each says where. *Limits* are
numbers, each with a unit, the range in which it may be moved and a reason; only a ratified amendment (amendments.py)
moves one. All other code takes its numbers from `Limits`.

There are two ranges for a limit. The one in the document is what the founders of a swarm allow its maintainers to
choose, and no amendment changes it. The one beside the field here is what this software can stand, and holds for every
document. The document that a new swarm gets is default_constitution.toml. *Pure.*
"""

import hashlib
import math
import tomllib
from typing import Annotated, Literal

import msgspec
import tomli_w
from msgspec import Meta, Struct

CONSTITUTION_BYTES_MAX = 64 * 1024  # of the canonical form, which travels as a blob like a program
ARTICLES = ("evaluator", "sandbox", "one-file", "no-peer-code-outside", "signed")
"""The articles that every constitution has, because the code keeps them whatever a document says."""

_Share = Annotated[float, Meta(gt=0, le=1)]
_Seconds = Annotated[float, Meta(gt=0, le=1e9)]
_Dollars = Annotated[float, Meta(gt=0, le=1e6)]  # 0 would be passed by spending nothing
_Some = Annotated[int, Meta(ge=1, le=10_000)]


class ConstitutionError(ValueError):
    """A constitution that cannot be used; the message says where and why."""


class _Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Article(_Part, frozen=True, kw_only=True):
    """What nothing can change."""

    id: Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,62}\\Z")]
    text: Annotated[str, Meta(min_length=1, max_length=4000)]
    kept_by: Annotated[str, Meta(min_length=1, max_length=1000)]  # where the code keeps it


class Limit(_Part, frozen=True, kw_only=True):
    """A number that an amendment may move within its range."""

    value: float
    unit: Annotated[str, Meta(min_length=1, max_length=200)]
    range: tuple[float, float]  # both ends included
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]  # why this value

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, *self.range))) or not self.range[0] <= self.value <= self.range[1]:
            raise ValueError(f"{self.value:g} is not in the range from {self.range[0]:g} to {self.range[1]:g}")


class Limits(_Part, frozen=True, kw_only=True):
    """The numbers in force. What each is for, and its unit, stands in the document."""

    # What is believed
    verification_share: _Share
    evidence_alpha: Annotated[float, Meta(ge=1e-6, le=0.2)]
    fdr_level: Annotated[float, Meta(ge=1e-6, le=0.5)]
    verification_pairs_max: Annotated[int, Meta(ge=3, le=64)]
    private_split_uses_max: _Some
    # What may be spent, per lane and UTC day
    compute_s_throttle: _Seconds
    compute_s_stop: _Seconds
    money_usd_throttle: _Dollars
    money_usd_stop: _Dollars
    # The gate
    recent_s: Annotated[float, Meta(ge=60, le=1e6)]
    crash_trials_min: _Some
    crash_share_throttle: _Share
    crash_share_freeze: _Share
    disagreement_verdicts_min: _Some
    disagreement_share_throttle: _Share
    disagreement_share_freeze: _Share
    adoptions_unseen_throttle: _Some
    adoptions_unseen_freeze: _Some
    disk_free_throttle_bytes: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    disk_free_stop_bytes: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    gate_release_share: Annotated[float, Meta(ge=0.1, le=0.99)]
    throttle_search_duty: Annotated[float, Meta(ge=0, lt=1)]
    # Amendments
    amendment_quorum_share: Annotated[float, Meta(ge=0.5, le=0.99)]
    amendment_delay_ticks: Annotated[int, Meta(ge=1, le=10**9)]

    def __post_init__(self) -> None:
        for milder, stricter in _ORDERED:
            first, second = getattr(self, milder), getattr(self, stricter)
            if (first < second) if milder.startswith("disk_free") else (first > second):
                raise ValueError(f"{stricter} ({second:g}) would be reached before {milder} ({first:g})")


_ORDERED = (
    ("compute_s_throttle", "compute_s_stop"),
    ("money_usd_throttle", "money_usd_stop"),
    ("crash_share_throttle", "crash_share_freeze"),
    ("disagreement_share_throttle", "disagreement_share_freeze"),
    ("adoptions_unseen_throttle", "adoptions_unseen_freeze"),
    ("disk_free_throttle_bytes", "disk_free_stop_bytes"),
)


class Constitution(_Part, frozen=True, kw_only=True):
    """One document. Made by `from_toml` and `from_canonical`, which check it."""

    version: Literal[1]  # of this form
    articles: Annotated[tuple[Article, ...], Meta(min_length=len(ARTICLES), max_length=64)]
    limits: Annotated[dict[str, Limit], Meta(max_length=256)]

    def __post_init__(self) -> None:
        ids = [article.id for article in self.articles]
        if len(set(ids)) < len(ids):
            raise ValueError("two articles have one id")
        if missing := [needed for needed in ARTICLES if needed not in ids]:
            raise ValueError(f"the article {missing[0]!r} is missing")
        self.numbers()

    def numbers(self) -> Limits:
        """The values by name. Raises `msgspec.ValidationError`, naming the limit, for one that cannot be used."""
        values = {name: limit.value for name, limit in self.limits.items()}
        # Documents know one kind of number: a whole one serves as a count and as a share.
        whole = {name: int(value) if value.is_integer() else value for name, value in values.items()}
        return msgspec.convert(whole, type=Limits)

    def canonical(self) -> bytes:
        """Canonical JSON: keys sorted, no spaces, shortest float form."""
        return msgspec.json.encode(self, order="sorted")

    def digest(self) -> str:
        """SHA-256 of the canonical form, hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def to_toml(self) -> str:
        """The document for people; `from_toml` reads it back with the same digest."""
        return tomli_w.dumps(msgspec.to_builtins(self), multiline_strings=True)


def from_canonical(data: bytes) -> Constitution:
    """Read what `canonical` wrote, as it comes from a peer. Raises `ConstitutionError`."""
    if len(data) > CONSTITUTION_BYTES_MAX:
        raise ConstitutionError(f"a constitution of {len(data)} bytes is over the limit of {CONSTITUTION_BYTES_MAX}")
    try:
        found = msgspec.json.decode(data, type=Constitution)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConstitutionError(f"unusable constitution: {error}") from error
    if found.canonical() != data:
        raise ConstitutionError("unusable constitution: it is not in its canonical form, so it has two digests")
    return found


def from_toml(text: str) -> Constitution:
    """Read a document for people. Raises `ConstitutionError`, naming the field at fault."""
    try:
        found = msgspec.convert(tomllib.loads(text), type=Constitution)
    except (tomllib.TOMLDecodeError, msgspec.MsgspecError, RecursionError) as error:
        raise ConstitutionError(f"unusable constitution: {error}") from error
    if len(found.canonical()) > CONSTITUTION_BYTES_MAX:
        raise ConstitutionError(f"unusable constitution: over the limit of {CONSTITUTION_BYTES_MAX} bytes")
    return found
