"""The ledger's story in W3C PROV, as PROV-JSON: what came from what, by which runs, on whose word.

Programs and discoveries are entities; trials, comparisons, attestations and retractions are activities; authors are
agents; an adoption is a program's influence on an author. docs/exports.md lists relations, names and attributes.

All of it are claims by the authors, recorded times among them, which are therefore attributes and no PROV times. What
is named and not in the export is named all the same.

Sources: https://www.w3.org/TR/prov-dm/ and https://www.w3.org/submissions/prov-json/. *Pure.*
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ledger.envelope import Signed
from ledger.predicates import Adoption, Attestation, Comparison, Discovery, Entry, Retraction, Trial

PREFIXES = {
    "waggle": "urn:waggle:prov:",  # types and attributes
    "program": "urn:waggle:program:",  # SHA-256
    "entry": "urn:waggle:entry:",  # id
    "comparison": "urn:waggle:comparison:",  # id of the entry that holds it
    "peer": "urn:waggle:peer:",  # peer id
}


def export(entries: Iterable[Signed]) -> Iterator[str]:
    """One JSON document, in ASCII. It is made in memory, with about 12 KB for each entry."""
    document = _Document()
    for signed in entries:
        _tell(document, signed)
    yield json.dumps(document.groups, indent=1) + "\n"


def _tell(document: "_Document", signed: Signed) -> None:
    """Add what one entry says; nothing for a type that is not of this story."""
    body, program = signed.statement.body, f"program:{signed.statement.subject}"
    name, peer = f"entry:{signed.id}", f"peer:{body.entry.author}"
    match body:
        case Trial(result=result):
            document.program(program)
            measured = {"status": result.status, "valBpb": result.val_bpb, "budgetUsedS": result.budget_used_s}
            run = {"track": body.track, "seed": body.seed, "split": body.split}
            document.activity(name, "Trial", peer, _placed(body.entry) | run | measured)
            document.relate("used", {"activity": name, "entity": program})
        case Discovery(comparison=comparison):
            parent = f"program:{body.parent}"
            document.program(program)
            document.program(parent)
            claim = {"track": body.track, "hypothesis": body.hypothesis, "proposer": body.proposer}
            document.entity(name, "Discovery", _placed(body.entry) | claim)
            document.relate("wasAttributedTo", {"entity": name, "agent": peer})
            compared = _compare(document, signed.id, peer, comparison)
            for used in (parent, program):
                document.relate("used", {"activity": compared, "entity": used})
            document.relate("wasGeneratedBy", {"entity": name, "activity": compared})
            derived = {"generatedEntity": program, "usedEntity": parent}
            document.relate("wasDerivedFrom", derived, {"discovery": _Name(name)})
        case Attestation(comparison=compared_by) | Retraction(comparison=compared_by):
            kind = type(body).__name__
            verdict = body.verdict if isinstance(body, Attestation) else None
            document.activity(name, kind, peer, _placed(body.entry) | {"verdict": verdict, "reason": body.reason})
            document.relate("used", {"activity": name, "entity": f"entry:{body.discovery}"})
            if compared_by is not None:
                compared = _compare(document, signed.id, peer, compared_by)
                document.relate("wasInformedBy", {"informed": name, "informant": compared})
        case Adoption():
            document.program(program)
            document.agent(peer)
            found = None if body.discovery is None else _Name(f"entry:{body.discovery}")
            own = None if body.comparison is None else _Name(_compare(document, signed.id, peer, body.comparison))
            why = {"track": body.track, "reason": body.reason, "discovery": found, "comparison": own}
            adopted = {"influencee": peer, "influencer": program}
            document.relate("wasInfluencedBy", adopted, _placed(body.entry) | why, name=name)
        case _:
            pass


def _compare(document: "_Document", entry_id: str, peer: str, comparison: Comparison) -> str:
    """Add a comparison, and return its name."""
    name = f"comparison:{entry_id}"
    document.activity(name, "Comparison", peer, {"split": comparison.split} | _effect(comparison))
    for trial in (*comparison.parent_trials, *comparison.child_trials):
        document.relate("wasInformedBy", {"informed": name, "informant": f"entry:{trial}"})
    return name


def _placed(entry: Entry) -> dict[str, Any]:
    return {"feed": entry.feed, "seq": entry.seq, "lamport": entry.lamport, "recordedAt": entry.recorded_at}


def _effect(comparison: Comparison) -> dict[str, Any]:
    effect = {"mean": comparison.mean, "low": comparison.low, "high": comparison.high}
    return effect | {"pValue": comparison.p_value, "noise": comparison.noise, "pairs": len(comparison.seeds)}


class _Name(str):
    """A qualified name, where a text could stand as well."""


class _Document:
    """A PROV-JSON document: records by kind and name."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {"prefix": dict(PREFIXES)}
        self._relations = 0

    def program(self, name: str) -> None:
        self.entity(name, "Program", {})

    def entity(self, name: str, kind: str, attributes: dict[str, Any]) -> None:
        self._group("entity")[name] = {"prov:type": _value(_Name(f"waggle:{kind}"))} | _own(attributes)

    def agent(self, name: str) -> None:
        self._group("agent")[name] = {"prov:type": _value(_Name("prov:SoftwareAgent"))}

    def activity(self, name: str, kind: str, peer: str, attributes: dict[str, Any]) -> None:
        """Add an activity, and who is answerable for it."""
        self.agent(peer)
        self._group("activity")[name] = {"prov:type": _value(_Name(f"waggle:{kind}"))} | _own(attributes)
        self.relate("wasAssociatedWith", {"activity": name, "agent": peer})

    def relate(
        self, kind: str, ends: dict[str, str], attributes: dict[str, Any] | None = None, name: str | None = None
    ) -> None:
        self._relations += 1
        ends_named = {f"prov:{role}": end for role, end in ends.items()}
        self._group(kind)[name or f"_:r{self._relations}"] = ends_named | _own(attributes or {})

    def _group(self, kind: str) -> dict[str, Any]:
        return self.groups.setdefault(kind, {})


def _own(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes in our namespace; those that are None are left out."""
    return {f"waggle:{name}": _value(value) for name, value in attributes.items() if value is not None}


def _value(value: str | float | _Name) -> Any:
    match value:
        case _Name():
            return {"$": str(value), "type": "xsd:QName"}
        case str():
            return value
        case int():
            return {"$": str(value), "type": "xsd:long"}
        case float():
            return {"$": repr(value), "type": "xsd:double"}
