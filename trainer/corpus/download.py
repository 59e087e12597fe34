"""Fetching a source of text from a URL whose digest is pinned: `https://host/file.jsonl.zst#sha256=<64 hex digits>`.

The digest is what is trusted, so plain http and any mirror will do. A download that breaks off is kept, and goes on
where it stopped (HTTP Range, RFC 9110 section 14) within this run and in the next one. What arrives complete but with
another digest is removed.
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from trainer.corpus.documents import CORPUS_BYTES_MAX
from trainer.corpus.errors import CorpusError
from trainer.corpus.sources import BLOCK_BYTES, Progress

SILENCE_S_MAX = 30.0
SCHEMES = ("https", "http", "file")
_PINNED = re.compile(r"sha256=([0-9a-f]{64})\Z")
_REST_OF = re.compile(r"bytes (\d+)-\d+/(\d+|\*)\Z")  # Content-Range


class Pinned(NamedTuple):
    """A URL, and the SHA-256 (hex) of what it has to give."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The last part of the URL's path: its end says what kind of file it is."""
        name = Path(unquote(urlsplit(self.url).path)).name
        return "download" if name in ("", "..") else name


def is_url(source: str) -> bool:
    return "://" in source


def pinned(source: str) -> Pinned:
    """Read `URL#sha256=HEX`. Raises `CorpusError` without a digest, and for a scheme that cannot be fetched."""
    url, _, fragment = source.partition("#")
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise CorpusError(f"{source}: {scheme} cannot be fetched: give a URL that begins with {', '.join(SCHEMES)}")
    digest = _PINNED.match(fragment)
    if digest is None:
        raise CorpusError(
            f"{source}: no digest. Everybody in a swarm has to have the same text, so pin it: {url}#sha256=HEX, "
            "with what `sha256sum` says of the file"
        )
    return Pinned(url, digest[1])


def fetch(source: Pinned, folder: Path, progress: Progress) -> Path:
    """The file behind a pinned URL, complete and checked, in `folder/<digest>/`; at once if it is there already.

    Raises `CorpusError` if it cannot be reached, is refused, or is another file than the pinned one.
    """
    path = folder / source.sha256 / source.file_name
    if path.exists() and _digest(path) == source.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    while not _more(source, partial, progress):
        pass
    found = _digest(partial)
    if found != source.sha256:
        partial.unlink()
        raise CorpusError(
            f"{source.url} has the digest {found}, not the pinned {source.sha256}; what came was removed. "
            "Check the URL and the digest"
        )
    partial.rename(path)
    return path


def _more(source: Pinned, partial: Path, progress: Progress) -> bool:
    """Fetch on from where `partial` ends. True when it is complete, False if the connection broke after some bytes."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(source.url, headers={"User-Agent": "waggle", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    at_first = have
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_S_MAX) as reply, partial.open("ab") as file:
            total = _total(reply.headers, have)
            if total is None:  # all of it, from the beginning: a server without ranges, or a file
                have = 0
                file.truncate(0)
                length = reply.headers.get("Content-Length")
                total = int(length) if length is not None and length.isdigit() else None
            while block := reply.read(BLOCK_BYTES):
                file.write(block)
                have += len(block)
                progress(f"fetching {source.file_name}", have, total)
                if have > CORPUS_BYTES_MAX:
                    raise CorpusError(f"{source.url} is over {CORPUS_BYTES_MAX} bytes: take a part of it")
        if total is None or have >= total:
            return True
        if have > at_first:
            return False
        raise _unreachable(source, have, OSError(f"it ends after {have} of {total} bytes"))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return True  # there is no more: the digest says if it is right
        raise CorpusError(f"{source.url}: the server says {error.code} {error.reason}: check the URL") from error
    except (OSError, http.client.HTTPException) as error:  # the first covers urllib's own
        have = partial.stat().st_size if partial.exists() else 0
        if have > at_first:
            return False
        raise _unreachable(source, have, error) from error


def _total(headers: http.client.HTTPMessage, have: int) -> int | None:
    """The size of the whole file if the reply is the rest from `have` on, else None."""
    rest = _REST_OF.match(headers.get("Content-Range", ""))
    if not have or rest is None or int(rest[1]) != have or rest[2] == "*":
        return None
    return int(rest[2])


def _unreachable(source: Pinned, have: int, error: Exception) -> CorpusError:
    reason = getattr(error, "reason", error)
    kept = f" The {have} bytes that came are kept: the same command goes on from there." if have else ""
    return CorpusError(
        f"{source.url} cannot be fetched ({reason}). Is this machine online?{kept} "
        "Or fetch it on another machine, and give the file with --corpus PATH"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
