"""From what a user names to a packed corpus in a file, in bounded memory and however large it is."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.corpus.cutting import cut
from trainer.corpus.documents import Written, write_packed
from trainer.corpus.download import fetch, is_url, pinned
from trainer.corpus.sources import FIELD_DEFAULT, Progress, silent, standard_library_texts, texts_of


class Prepared(NamedTuple):
    """A packed corpus, under its digest in a folder."""

    path: Path
    written: Written


def prepare(
    sources: Sequence[str | Path],
    folder: Path,
    *,
    field: str = FIELD_DEFAULT,
    downloads: Path | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Pack the text of `sources` (paths, and URLs with a digest; none: the standard library) into `folder/<digest>`.

    The file appears under its name only when it is complete and on the disk. Downloads are kept in the folder
    `downloads` (by default `folder/downloads`), which is removed when the corpus is packed, so that an interrupted one
    goes on the next time.

    Raises `CorpusError` for what cannot be read, fetched or used, `OSError` if the folder cannot be written.
    """
    links = [pinned(str(source)) if is_url(str(source)) else None for source in sources]  # raises, before any work
    folder.mkdir(parents=True, exist_ok=True)
    downloads = downloads or folder / "downloads"
    fetched = {link: fetch(link, downloads, progress) for link in links if link is not None}
    paths = [Path(source) if link is None else fetched[link] for source, link in zip(sources, links, strict=True)]
    texts = texts_of(paths, field, progress) if sources else standard_library_texts()
    with tempfile.TemporaryFile(dir=folder) as scratch:
        unfinished = folder / f"unfinished.{os.getpid()}"
        try:
            with unfinished.open("wb") as out:
                written = write_packed(cut(texts), out, scratch)
                out.flush()
                os.fsync(out.fileno())
            path = folder / written.digest
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    if fetched:
        shutil.rmtree(downloads)
    return Prepared(path, written)
