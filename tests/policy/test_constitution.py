"""The constitution: one meaning, one digest; strict reading; every number in its range, twice."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from node.charter import default_constitution
from policy.constitution import (
    ARTICLES,
    CONSTITUTION_BYTES_MAX,
    ConstitutionError,
    Limits,
    from_canonical,
    from_toml,
)

DEFAULT = default_constitution()


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(DEFAULT.canonical())
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_the_default_has_every_article_and_every_limit() -> None:
    assert {article.id for article in DEFAULT.articles} == set(ARTICLES)
    assert set(DEFAULT.limits) == set(Limits.__struct_fields__)
    assert DEFAULT.numbers().verification_share == 0.3
    assert all(limit.range[0] < limit.range[1] for limit in DEFAULT.limits.values())


def test_both_forms_keep_the_digest() -> None:
    assert from_toml(DEFAULT.to_toml()) == DEFAULT
    assert from_canonical(DEFAULT.canonical()).digest() == DEFAULT.digest()
    text = DEFAULT.to_toml()
    assert from_toml("# a comment\n" + text.replace("value = 24.0", "value = 24")).digest() == DEFAULT.digest()
    assert text.count("value = 24.0") == 1


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("name", sorted(DEFAULT.limits))
def test_the_software_can_stand_what_the_default_allows(name: str, end: int) -> None:
    """Both ends of each range, with its milder and stricter companions moved along."""
    value = DEFAULT.limits[name].range[end]
    stem = name.rpartition("throttle")[0] or name.rpartition("stop")[0] or name.rpartition("freeze")[0] or name
    moved = {
        other: msgspec.structs.replace(limit, value=value) if other.startswith(stem) and limit.unit == DEFAULT.limits[
            name
        ].unit else limit
        for other, limit in DEFAULT.limits.items()
    }  # fmt: skip
    assert getattr(msgspec.structs.replace(DEFAULT, limits=moved).numbers(), name) == value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.update(version=2), "version"),
        (lambda d: d["articles"].pop(0), "articles"),
        (lambda d: d["articles"].append(d["articles"][0]), "one id"),
        (lambda d: d["articles"][0].update(id="another"), "'evaluator' is missing"),
        (lambda d: d["limits"].pop("fdr_level"), "fdr_level"),
        (lambda d: d["limits"].update(unheard_of=d["limits"]["fdr_level"]), "unheard_of"),
        (lambda d: d["limits"]["fdr_level"].update(value=0.9), "not in the range"),
        (lambda d: d["limits"]["fdr_level"].update(value=0.9, range=[0.0, 1.0]), "fdr_level"),
        (lambda d: d["limits"]["fdr_level"].update(value="0.1"), "value"),
        (lambda d: d["limits"]["verification_pairs_max"].update(value=3.5), "verification_pairs_max"),
        (lambda d: d["limits"]["money_usd_stop"].update(value=1.0), "money_usd_stop"),
        (lambda d: d["limits"]["disk_free_stop_bytes"].update(value=9e9), "disk_free_stop_bytes"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change: Callable[[dict[str, Any]], object], says: str) -> None:
    with pytest.raises(ConstitutionError, match=says):
        from_canonical(changed(change))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"[" * 100_000, b" " * (CONSTITUTION_BYTES_MAX + 1), DEFAULT.canonical() + b"\n"],
    ids=["empty", "binary", "an array", "deep", "long", "another form of the same"],
)
def test_strange_bytes_from_a_peer_are_refused(data: bytes) -> None:
    with pytest.raises(ConstitutionError):
        from_canonical(data)


@pytest.mark.parametrize("text", ["not = = toml", "version = 1", "x = " + "[" * 5000])
def test_strange_text_is_refused(text: str) -> None:
    with pytest.raises(ConstitutionError):
        from_toml(text)
