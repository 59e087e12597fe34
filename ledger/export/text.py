"""Peers' text on its way into a file that a person or a spreadsheet opens. *Pure.*"""

_FORMULA_STARTS = ("=", "+", "-", "@")


def plain(text: str) -> str:
    """Text of unknown origin, with line breaks and whatever else is not printable replaced.

    Control characters could act on a terminal, and bidirectional overrides show one thing where another stands.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def cell(text: str) -> str:
    """Text of unknown origin as one cell of a tab-separated file.

    Readers take a quotation mark for the start of a cell that goes on over line breaks, and spreadsheets run a cell
    that starts like a formula (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    line = plain(" ".join(text.split())).replace('"', "'")
    return f"'{line}" if line.startswith(_FORMULA_STARTS) else line
