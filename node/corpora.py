"""What `waggle corpus info` says of a corpus, and the progress bars of making one."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from node.home import VALIDATION_SHARE, Home
from trainer.corpus import SHARED_BYTES_MAX, Corpus, CorpusError, divide, prepare
from trainer.corpus import Progress as Report

EXAMPLE_SALT = bytes(16)  # for text that no challenge has been made of yet, and so no public salt


class Side(Struct, frozen=True):
    """One side of a split."""

    documents: int
    bytes: int
    share: float  # of all bytes


class Info(Struct, frozen=True, kw_only=True):
    """What can be said of a corpus without reading it."""

    digest: str
    documents: int
    bytes: int  # of text
    packed_bytes: int
    shareable: bool  # small enough to be fetched by peers
    duplicates: int  # documents whose text another one has already
    near_duplicate_groups: int  # of two and more documents, equal ones included
    near_duplicates: int  # documents in these groups
    largest_group: int
    groups_agree: bool | None  # with those that this version computes; None where they have just been computed
    salt: str  # hex
    validation_share: float  # of groups, nominal
    training: Side | None  # None where the corpus cannot be split with this salt
    validation: Side | None
    unsplittable: str = ""  # why


def info_of_home(home: Home) -> Info:
    """Of the corpus of a home's challenge, under its public salt. Raises `UserError`, `CorpusError`."""
    challenge = home.challenge()
    store = home.store(challenge)
    path = home.corpus_path(challenge, store)
    store.close()
    corpus = Corpus.open(path)
    agree = np.array_equal(corpus.groups, Corpus(corpus.documents).groups)
    salt = home.public_split(challenge).salt
    return _info(corpus, path.stat().st_size, salt, challenge.split.validation_share, agree)


def info_of_sources(sources: Sequence[str], field: str, report: Report) -> Info:
    """Of what `waggle init --corpus` would make of the sources. Raises `CorpusError`, `OSError`.

    It is packed for that in the folder for temporary files (TMPDIR).
    """
    with tempfile.TemporaryDirectory(prefix="waggle-corpus-") as folder:
        prepared = prepare(sources, Path(folder), field=field, progress=report)
        corpus = Corpus.open(prepared.path)
        return _info(corpus, prepared.written.packed_bytes, EXAMPLE_SALT, VALIDATION_SHARE, None)


def _info(corpus: Corpus, packed_bytes: int, salt: bytes, validation_share: float, agree: bool | None) -> Info:
    sizes = np.unique(corpus.groups, return_counts=True)[1]
    several = sizes[sizes > 1]
    sides: tuple[Side | None, Side | None] = (None, None)
    unsplittable = ""
    try:
        training, validation = divide(corpus, salt, validation_share)
    except CorpusError as error:
        unsplittable = str(error)
    else:
        sides = _side(corpus, training), _side(corpus, validation)
    return Info(
        digest=corpus.digest(),
        documents=len(corpus.documents),
        bytes=corpus.text_bytes,
        packed_bytes=packed_bytes,
        shareable=packed_bytes <= SHARED_BYTES_MAX,
        duplicates=len(corpus.documents) - len(np.unique(corpus.ids.view("S32"))),
        near_duplicate_groups=len(several),
        near_duplicates=int(several.sum()),
        largest_group=int(sizes.max()),
        groups_agree=agree,
        salt=salt.hex(),
        validation_share=validation_share,
        training=sides[0],
        validation=sides[1],
        unsplittable=unsplittable,
    )


def _side(corpus: Corpus, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Side:
    size = int(corpus.lengths[indices].sum())
    return Side(len(indices), size, size / corpus.text_bytes)


def lines(info: Info) -> list[str]:
    """The same for people."""
    shown = [
        f"digest      {info.digest}",
        f"documents   {info.documents}, {info.bytes / 1e6:.1f} MB of text, {info.packed_bytes / 1e6:.1f} MB packed",
        f"duplicates  {info.duplicates}",
        f"groups      {info.near_duplicate_groups} of near duplicates with {info.near_duplicates} documents; "
        f"the largest has {info.largest_group}",
    ]
    if info.training is None or info.validation is None:
        shown.append(f"split       none: {info.unsplittable}")
    else:
        example = ", for an example's salt" if info.groups_agree is None else ""
        shown.append(
            f"split       {info.training.documents} documents train and {info.validation.documents} validate, "
            f"{info.validation.share:.1%} of the text (nominal {info.validation_share:.0%}){example}"
        )
    if info.groups_agree is False:
        shown.append("groups      differ from those that this version finds: another version, or not honestly made")
    if not info.shareable:
        shown.append(f"sharing     {unshareable(info.packed_bytes)}")
    return shown


def unshareable(packed_bytes: int) -> str:
    """What it means that a corpus is too large for peers."""
    return (
        f"this corpus has {packed_bytes / 2**20:.0f} MiB, and peers pass on {SHARED_BYTES_MAX // 2**20} MiB at most: "
        "who wants to join has to copy the file corpus/DIGEST from this home into the new one"
    )


@contextmanager
def progress_bars(console: Console) -> Iterator[Report]:
    """A bar for each thing that is being done, while the block runs; none where `console` is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report
