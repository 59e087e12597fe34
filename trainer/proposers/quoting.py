"""Texts of strangers as data for a model: cleaned, bounded, and between marks that they cannot write. *Pure.*

A hypothesis, a lesson or a program may be a peer's, and may say "ignore the rules". No filter can tell such a text from
an honest one, so none is tried: it is quoted. Each block opens and closes with a tag that ends in a keyed hash of the
block's content (BLAKE2b, RFC 7693, with a key of this process), so no author can know it, and one that gets out is of
no use for any other text. The same text has the same tag while the process lives, which keeps a provider's cache of
prompts valid.

This keeps the model from taking quoted text for the node's own words by its form. It does not keep a model from
believing it: what a model proposes passes the same screen and sandbox as anybody's program.
"""

import hashlib
import unicodedata
from collections.abc import Sequence

TAG_BYTES = 8
_VARIATION_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))  # invisible, and they can carry any text


def clean(text: str, characters_max: int) -> str:
    """Without control, format, private, unassigned and other invisible characters, line ends and tabs apart; bounded.

    What is cut is said: the result is at most `characters_max` characters and a note longer.
    """
    kept = "".join(filter(_shown, text[:characters_max].replace("\r\n", "\n").replace("\r", "\n")))
    return kept if len(text) <= characters_max else f"{kept} … [{len(text) - characters_max} more characters cut]"


def clean_line(text: str, characters_max: int) -> str:
    """Likewise, in one line."""
    return " ".join(clean(text, characters_max).split())


def _shown(character: str) -> bool:
    if character in "\n\t":
        return True
    if any(ord(character) in selectors for selectors in _VARIATION_SELECTORS):
        return False
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


class Quoter:
    """Puts texts between marks of one process."""

    def __init__(self, key: bytes) -> None:
        """`key`: 16 to 64 bytes that nobody else knows."""
        if not 16 <= len(key) <= 64:
            raise ValueError("the key of a quoter has 16 to 64 bytes")
        self._key = key

    def quote(self, title: str, text: str, characters_max: int) -> str:
        """A block with a text. `title` is the node's own: lower-case words with hyphens."""
        body = clean(text, characters_max)
        tag = f"{title}-{self._tag(title, body)}"
        return f"<{tag}>\n{body}\n</{tag}>"

    def quote_list(self, title: str, texts: Sequence[str], count_max: int, characters_max: int) -> str:
        """A block with the last `count_max` texts, numbered, each in one line of at most `characters_max`."""
        lines = [clean_line(text, characters_max) for text in texts[-count_max:]]
        numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))
        return self.quote(title, numbered, count_max * (characters_max + 64))

    def _tag(self, title: str, body: str) -> str:
        attempt = 0
        while True:
            content = f"{attempt}\0{title}\0{body}".encode()
            tag = hashlib.blake2b(content, key=self._key, digest_size=TAG_BYTES).hexdigest()
            if tag not in body:
                return tag
            attempt += 1
