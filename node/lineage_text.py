"""A lineage as a tree for people, and as a graph for Graphviz and Mermaid. *Pure.*

Labels carry peers' text, which cannot leave its place: in DOT a label is a string in quotes, with its quotes and
backslashes escaped (https://graphviz.org/doc/info/lang.html); in Mermaid all but letters, digits and a few signs is
written as entities by number (https://mermaid.js.org/syntax/flowchart.html, "Entity codes to escape characters").
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.text import Text

from ledger.queries import DiscoveryRow, Lineage, Mark
from node.story import ID_SHOWN, marks_text, plain, short, step

LABEL_CHARS = 80  # of a hypothesis
_MERMAID_PLAIN = frozenset(" +-.,…")


def tree(lineage: Lineage, origin: str) -> Iterator[Text]:
    """One line for `origin` and for each step; what was built on the discovery, which is bold, as branches.

    A step that is the only one built on another stands below it without a branch, so long chains stay readable.
    """
    yield Text(plain(origin))
    for above in lineage.ancestors[:-1]:
        yield _one_line(Text(), step(above.discovery, above.marks))
    below = _children([found.depth for found in lineage.descendants])
    waiting = [(0, "", "")]  # a step, what stands before it, and before what is built on it
    while waiting:
        at, before, indent = waiting.pop()
        found = lineage.descendants[at]
        line = step(found.discovery, found.marks)
        if at == 0:
            line.stylize("bold")
        yield _one_line(Text(before), line)
        if at != 0 and len(below[at]) == 1:
            waiting.append((below[at][0], indent, indent))
            continue
        for child in reversed(below[at]):
            last = child == below[at][-1]
            waiting.append((child, indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  ")))


def _one_line(before: Text, line: Text) -> Text:
    whole = before.append_text(line)
    whole.no_wrap, whole.overflow = True, "ellipsis"
    return whole


def _children(depths: Sequence[int]) -> list[list[int]]:
    """For each place in a list in depth-first order, the places of those directly below it."""
    below: list[list[int]] = [[] for _ in depths]
    path: list[int] = []  # the open place at each depth
    for at, depth in enumerate(depths):
        del path[depth:]
        if path:
            below[path[-1]].append(at)
        path.append(at)
    return below


class _Node(NamedTuple):
    label: tuple[str, ...]  # lines
    style: str  # origin, confirmed, claimed or doubted
    parent: int | None  # its place in the list


def _nodes(lineage: Lineage, origin: str) -> list[_Node]:
    nodes = [_Node((origin,), "origin", None)]
    for above in lineage.ancestors[:-1]:
        nodes.append(_node(above.discovery, above.marks, len(nodes) - 1))
    first = len(nodes)
    parents: dict[int, int] = {
        first + child: first + at
        for at, children in enumerate(_children([found.depth for found in lineage.descendants]))
        for child in children
    }
    for found in lineage.descendants:
        nodes.append(_node(found.discovery, found.marks, parents.get(len(nodes), len(nodes) - 1)))
    return nodes


def _node(row: DiscoveryRow, marks: Sequence[Mark], parent: int) -> _Node:
    hypothesis = plain(row.hypothesis)
    if len(hypothesis) > LABEL_CHARS:
        hypothesis = hypothesis[:LABEL_CHARS] + "…"
    effect = f"{row.mean:+.4f} bpb by {short(row.author)}, confirmed {row.confirmed}, refuted {row.refuted}"
    words = [marks_text(marks)] if marks else []
    style = "doubted" if marks else "confirmed" if row.confirmed else "claimed"
    return _Node((row.id[:ID_SHOWN], effect, *words, hypothesis), style, parent)


_DOT_STYLES = {
    "origin": "shape=box",
    "confirmed": "shape=box, style=bold, color=darkgreen",
    "claimed": "shape=box",
    "doubted": "shape=box, style=dashed, color=red",
}


def dot(lineage: Lineage, origin: str) -> str:
    """A Graphviz digraph, from a parent to what was built on it."""
    lines = ["digraph lineage {"]
    for number, node in enumerate(_nodes(lineage, origin)):
        label = "\\n".join(map(_dot_escape, node.label))
        lines.append(f'  n{number} [label="{label}", {_DOT_STYLES[node.style]}];')
        if node.parent is not None:
            lines.append(f"  n{node.parent} -> n{number};")
    return "\n".join([*lines, "}"])


def _dot_escape(text: str) -> str:
    return plain(text).replace("\\", "\\\\").replace('"', '\\"')


def mermaid(lineage: Lineage, origin: str) -> str:
    """A Mermaid flowchart, from a parent to what was built on it."""
    lines = [
        "flowchart TD",
        "  classDef confirmed stroke:#080,stroke-width:2px",
        "  classDef doubted stroke:#c00,stroke-dasharray:5",
    ]
    for number, node in enumerate(_nodes(lineage, origin)):
        label = "<br/>".join(map(_mermaid_escape, node.label))
        styled = f":::{node.style}" if node.style in ("confirmed", "doubted") else ""
        lines.append(f'  n{number}["{label}"]{styled}')
        if node.parent is not None:
            lines.append(f"  n{node.parent} --> n{number}")
    return "\n".join(lines)


def _mermaid_escape(text: str) -> str:
    return "".join(c if c.isalnum() or c in _MERMAID_PLAIN else f"#{ord(c)};" for c in plain(text))
