"""The text that a challenge is about: documents, their packed form, and how they are split and drawn for evaluation.

The rules, in the order in which they apply:

1. A corpus is an ordered list of documents of bounded size (cutting.py). Its digest is the SHA-256 of its packed form
   (documents.py).
2. Near duplicates form groups (similarity.py), and a group has an id that its texts alone decide.
3. A keyed hash of the id, with the salt as key, assigns the group: no document, and no near duplicate of one, is on
   both sides of a split, and who does not know the salt cannot know the split (splits.py).
4. Evaluation rows are cut from the validation text with equal spacing, so that they stand for all of it.

Where text comes from is in sources.py and download.py, and prepare.py packs it in bounded memory. None of this imports
torch or trio. What the split does not cover: pieces of one long text are documents of their own, and fall on both
sides; so do an excerpt and the longer text that quotes it.
"""

from trainer.corpus.cutting import PIECE_BYTES_MAX, PIECE_BYTES_MIN, PIECES_WANTED
from trainer.corpus.documents import (
    CORPUS_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    DOCUMENTS_MAX,
    NAME_CHARACTERS_MAX,
    SHARED_BYTES_MAX,
    Corpus,
    Document,
    packed_bytes_max,
)
from trainer.corpus.errors import CorpusError
from trainer.corpus.prepare import Prepared, prepare
from trainer.corpus.sources import STANDARD_LIBRARY_BYTES_MAX, Progress, from_paths, silent, standard_library
from trainer.corpus.splits import SALT_BYTES_MAX, Division, divide, split, validation_rows

__all__ = [
    "CORPUS_BYTES_MAX",
    "DOCUMENTS_MAX",
    "DOCUMENT_BYTES_MAX",
    "NAME_CHARACTERS_MAX",
    "PIECES_WANTED",
    "PIECE_BYTES_MAX",
    "PIECE_BYTES_MIN",
    "SALT_BYTES_MAX",
    "SHARED_BYTES_MAX",
    "STANDARD_LIBRARY_BYTES_MAX",
    "Corpus",
    "CorpusError",
    "Division",
    "Document",
    "Prepared",
    "Progress",
    "divide",
    "from_paths",
    "packed_bytes_max",
    "prepare",
    "silent",
    "split",
    "standard_library",
    "validation_rows",
]
