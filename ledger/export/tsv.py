"""Autoresearch's `results.tsv`: one row per program tried, which its notebook plots.

A row is one author's trials of one program on the public split, in one track. Columns as in autoresearch's program.md:
the first 7 characters of the program's SHA-256 where that has a commit; the mean score, and 0.000000 where no trial
ended well; the greatest peak memory in GiB (it divides MiB by 1024), and 0.0 likewise; `keep` if the author states a
discovery of the program or adopts it, else `discard`, or `crash` where there is no score; and the hypothesis.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ledger.envelope import Signed
from ledger.export.text import cell
from ledger.predicates import Adoption, Claim, Discovery, Measurement, Trial

HEADER = ("commit", "val_bpb", "memory_gb", "status", "description")
UNKNOWN = "(no hypothesis recorded)"


class _Tried(NamedTuple):
    """One author's program in one track."""

    author: str
    track: str
    program: str


def export(entries: Iterable[Signed], *, author: str | None = None, track: str | None = None) -> Iterator[str]:
    """The lines for what `author` tried in `track`, or all authors in all tracks. *Pure.*

    Entries are in causal order; rows come in the order of a program's first trial, those of baselines before all.
    """
    runs: dict[_Tried, list[Measurement]] = {}
    baselines: set[_Tried] = set()
    kept: set[_Tried] = set()
    own: dict[_Tried, str] = {}  # the author's hypothesis
    anybodys: dict[str, str] = {}  # by program: the first discovery's
    for signed in entries:
        subject, body = signed.statement.subject, signed.statement.body
        if not isinstance(body, Trial | Claim | Discovery | Adoption):
            continue
        tried = _Tried(body.entry.author, body.track, subject)
        match body:
            case Trial(split="public") if author in (None, tried.author) and track in (None, tried.track):
                runs.setdefault(tried, []).append(body.result)
            case Claim(hypothesis=hypothesis):
                own[tried] = hypothesis
            case Discovery(hypothesis=hypothesis):
                kept.add(tried)
                own[tried] = hypothesis
                anybodys.setdefault(subject, hypothesis)
            case Adoption(discovery=found):
                kept.add(tried)
                if found is None:
                    baselines.add(tried)
            case _:
                pass
    yield _line(HEADER)
    for tried in sorted(runs, key=lambda tried: tried not in baselines):  # stable
        hypothesis = "baseline" if tried in baselines else own.get(tried) or anybodys.get(tried.program) or UNKNOWN
        yield _line((tried.program[:7], *_measured(runs[tried], kept=tried in kept), cell(hypothesis)))


def _measured(results: list[Measurement], *, kept: bool) -> tuple[str, str, str]:
    """Score, memory and status of a program."""
    scored = [(result.val_bpb, result.peak_memory_bytes) for result in results if result.val_bpb is not None]
    if not scored:
        return "0.000000", "0.0", "crash"
    mean = sum(score for score, _ in scored) / len(scored)
    memory = max(peak for _, peak in scored) / 2**30
    return f"{mean:.6f}", f"{memory:.1f}", "keep" if kept else "discard"


def _line(cells: Iterable[str]) -> str:
    return "\t".join(cells) + "\n"
