"""HTML and SVG in which text cannot become markup by being forgotten: what is not `Markup` is escaped. *Pure.*"""

import html

from ledger.export.text import plain


class Markup(str):
    """Markup, to be written as it is."""


def escaped(text: str) -> Markup:
    """Text of unknown origin as one line of markup."""
    return text if isinstance(text, Markup) else Markup(html.escape(plain(text)))


def escaped_lines(text: str) -> Markup:
    """As `escaped`, with the line breaks kept."""
    return Markup("\n".join(map(escaped, text.splitlines())))


def tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """An element. Attributes are in Python's spelling: `class_`, `text_anchor`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value if isinstance(value, str) else format(value, ".5g"))}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(map(escaped, content))}</{name}>")
