"""A node's folder: what lies where, and how it comes into being.

challenge.toml    what the swarm works on; written last, so a home without it is unfinished
identity.key      the node's private key, mode 0600
identity.fresh    there as long as the key has signed nothing
private.salt      the salts of the node's private splits (salts.py), mode 0600
swarm.key         of a private swarm only: the key that all its nodes share, mode 0600
ledger.db         all signed statements and the blobs that they name
corpus/           the packed corpus, and a tokenizer, under their digests, for the runner; `.part` is still on its way
downloads/        what a corpus is being made of; gone when it is made
incumbent/        git working tree of the program that the node builds on
status.json       what a running node is doing, for `waggle status`
waggle.toml       the owner's settings, of proposers for instance; optional (proposers.py)
spending.jsonl    what proposers have cost
program.md        what the owner wants proposers to know; optional, and read afresh for each proposal
courses.db        how each discovery came to its state here: what no statement says (courses.py)
asked/            the discoveries that the owner wants verified or adopted (asking.py)
steering/         the owner's suggestions and programs for the search, and what became of them (steering.py)
gate.json         what the owner commanded of the gate, and when somebody last looked, for the running node
lock              held by the running node
"""

import fcntl
import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.author import Author
from ledger.blobs import BLOB_BYTES_MAX
from ledger.envelope import peer_id
from ledger.queries import counts
from ledger.statements import commit
from ledger.store import Store
from node.charter import default_constitution
from node.errors import UserError
from node.identity import fresh_mark, load_or_create_key
from node.salts import SALT_BYTES, Salts
from node.swarm_key import read_swarm_key
from node.tracks import baseline_program
from policy.constitution import Constitution
from trainer.challenge import Challenge, CorpusRef, Split, TokenizerRef, Track, from_canonical, load
from trainer.corpus import Corpus, Progress, prepare, silent, split
from trainer.tokens import BpeTokens, ByteTokens, Tokenizer, rows, tokenizer_for

SALTS_DRAWN_MAX = 100
VALIDATION_SHARE = 0.1  # of the documents


class SplitChoice(NamedTuple):
    """Which documents validate: the salt, and the name under which trials record the split."""

    name: str
    salt: bytes


class Home:
    """The paths of a home and what is read from them. Making one touches nothing on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.challenge_file = path / "challenge.toml"
        self.ledger_file = path / "ledger.db"
        self.key_file = path / "identity.key"
        self.swarm_key_file = path / "swarm.key"
        self.corpora = path / "corpus"
        self.incumbent = path / "incumbent"
        self.status_file = path / "status.json"
        self.gate_file = path / "gate.json"
        self.brief_file = path / "program.md"
        self.settings_file = path / "waggle.toml"
        self.accounts_file = path / "spending.jsonl"
        self.steering = path / "steering"
        self.courses_file = path / "courses.db"
        self.asked = path / "asked"

    def is_initialised(self) -> bool:
        return self.challenge_file.exists()

    def challenge(self) -> Challenge:
        """Raises `UserError` if there is none, `ChallengeError` if it cannot be read."""
        if not self.is_initialised():
            raise UserError(
                f"{self.path} holds no challenge. Make one with `waggle init --home {self.path}`, "
                f"or join a swarm with `waggle start --home {self.path} --join MULTIADDR`."
            )
        return load(self.challenge_file)

    def store(self, challenge: Challenge, *, check: bool = False) -> Store:
        """The home's ledger. Raises `LedgerDamaged`, or `UserError` if it is another challenge's."""
        store = Store.open(self.ledger_file, check=check)
        if store.challenge != challenge.digest():
            raise UserError(
                f"{self.ledger_file} is the ledger of challenge {store.challenge[:12]}, but {self.challenge_file} "
                f"says {challenge.digest()[:12]}. Restore the challenge file, or use a fresh --home."
            )
        return store

    def key(self) -> Ed25519PrivateKey:
        """The node's key, made on the first call. Raises `UserError` if its file is damaged."""
        self.path.mkdir(parents=True, exist_ok=True)
        return load_or_create_key(self.key_file)

    def swarm_key(self) -> bytes | None:
        """The key of this home's private swarm; None for a swarm that is open. Raises `UserError` if it is damaged."""
        return read_swarm_key(self.swarm_key_file) if self.swarm_key_file.exists() else None

    def public_split(self, challenge: Challenge) -> SplitChoice:
        return SplitChoice("public", bytes.fromhex(challenge.split.public_salt))

    def private_split(self) -> SplitChoice:
        """This node's own split, which nobody else can fit a program to; its name commits to the salt."""
        salt = self.salts().current()
        return SplitChoice(commit(salt), salt)

    def salts(self) -> Salts:
        """The node's private salts. Raises `UserError` if their file is missing or damaged.

        Drawing a new one, which `Salts.use` does when it is due, reads the whole corpus.
        """

        def draw() -> bytes:
            challenge = self.challenge()
            store = self.store(challenge)
            corpus = Corpus.open(self.corpus_path(challenge, store))
            file = self.tokenizer_path(challenge, store)
            tokenizer = tokenizer_for(challenge, None if file is None else file.read_bytes())
            store.close()
            return usable_salt(corpus, challenge.split.validation_share, challenge.tracks, tokenizer)

        return Salts(self.path / "private.salt", draw)

    def corpus_file(self, digest: str) -> Path:
        """Where the packed corpus of this digest lies, if it is there."""
        return self.corpora / digest

    def blob_file(self, digest: str) -> Path | None:
        """The file that holds these bytes, for peers who ask for them; None if there is none."""
        path = self.corpora / digest
        return path if path.is_file() else None

    def corpus_path(self, challenge: Challenge, store: Store) -> Path:
        """The packed corpus as a file, taken out of the ledger once if it is not there.

        Raises `UserError` if it is in neither: one that was too large for the ledger was removed.
        """
        path = self.corpus_file(challenge.corpus.digest)
        if not path.exists():
            if not store.blobs.has(challenge.corpus.digest):
                raise UserError(
                    f"{path} is gone, and it was too large to be kept in the ledger. Copy it from a backup or another "
                    "home of this challenge."
                )
            self.corpora.mkdir(exist_ok=True)
            unfinished = path.with_suffix(".new")
            unfinished.write_bytes(store.blobs.get(challenge.corpus.digest))
            unfinished.rename(path)
        return path

    def tokenizer_path(self, challenge: Challenge, store: Store) -> Path | None:
        """The challenge's tokenizer as a file, taken out of the ledger once; None where bytes are the tokens."""
        if challenge.tokenizer == "bytes":
            return None
        path = self.corpora / challenge.tokenizer.digest
        if not path.exists():
            self.corpora.mkdir(exist_ok=True)
            unfinished = path.with_suffix(".new")
            unfinished.write_bytes(store.blobs.get(challenge.tokenizer.digest))
            unfinished.rename(path)
        return path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the home for one running node. Raises `UserError` if another has it.

        The lock is the kernel's, so it is gone with its holder, however that ends.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"a node is already running on {self.path}. Stop it, or use another --home.") from None
            yield

    def is_locked(self) -> bool:
        """Whether a node is running on this home."""
        try:
            with (self.path / "lock").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def settle(self, challenge: Challenge, blobs: Mapping[str, bytes]) -> None:
        """Make this the home of a challenge, with the blobs that it names. All of it, or a home still unfinished.

        A corpus that is not among the blobs lies in its file already, and is checked.

        Raises `UserError` if it is already the home of one, or the corpus is another.
        """
        if self.is_initialised():
            raise UserError(
                f"{self.path} is already the home of challenge {self.challenge().digest()[:12]}. "
                "Start it with `waggle start`, or give another --home."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        key = self.key()
        packed, path = blobs.get(challenge.corpus.digest), self.corpus_file(challenge.corpus.digest)
        corpus = Corpus.open(path) if packed is None else Corpus.unpack(packed)
        if corpus.digest() != challenge.corpus.digest:
            raise UserError(f"{path} has another digest. Copy it again.")
        file = None if challenge.tokenizer == "bytes" else blobs.get(challenge.tokenizer.digest)
        tokenizer = tokenizer_for(challenge, file)
        salt = usable_salt(corpus, challenge.split.validation_share, challenge.tracks, tokenizer)
        Salts.create(self.path / "private.salt", salt)
        self._discard_unfinished_ledger()
        store = Store.create(self.ledger_file, challenge.digest())
        store.blobs.put(challenge.canonical())
        for data in blobs.values():
            store.blobs.put(data)
        if not fresh_mark(self.key_file).exists():
            Author(store, key).reset("the key is older than this ledger, and may have signed what is not in it")
        store.close()
        fresh_mark(self.key_file).unlink(missing_ok=True)  # whatever happens from here on, it may have signed
        unfinished = self.challenge_file.with_suffix(".new")
        unfinished.write_text(challenge.to_toml())
        unfinished.replace(self.challenge_file)

    def _discard_unfinished_ledger(self) -> None:
        """Remove what an interrupted attempt left; never a ledger in which anything was stated."""
        if not self.ledger_file.exists():
            return
        store = Store.open(self.ledger_file)
        stated = sum(count for kind, count in counts(store).items() if kind != "feed-reset")
        store.close()
        if stated:
            raise UserError(
                f"{self.ledger_file} holds {stated} statements, but {self.challenge_file} is gone. "
                "Restore that file, or use another --home."
            )
        self.ledger_file.unlink()


def usable_salt(corpus: Corpus, validation_share: float, tracks: Mapping[str, Track], tokenizer: Tokenizer) -> bytes:
    """A random salt under which the corpus gives training and validation text for every track.

    Of a small corpus some salts put nothing, or everything, on one side. Raises `UserError` if none can be found.
    """
    reason = ""
    for _ in range(SALTS_DRAWN_MAX):
        salt = secrets.token_bytes(SALT_BYTES)
        try:
            _, validation = split(corpus, salt, validation_share, training_bytes_max=0)  # of no use here
            tokens = [tokenizer.encode(text) for text in validation]
            for track in tracks.values():
                rows(tokens, track.seq_len, track.eval_bytes, tokenizer.byte_lengths)
        except ValueError as error:
            reason = str(error)
        else:
            return salt
    raise UserError(f"the corpus is too small to be split into training and validation text: {reason}")


def found_challenge(
    home: Home,
    name: str,
    sources: Sequence[str | Path],
    tracks: Mapping[str, Track],
    *,
    field: str = "text",
    tokenizer: bytes | None = None,
    constitution: Constitution | None = None,
    maintainers: Sequence[str] = (),
    progress: Progress = silent,
) -> Challenge:
    """Make a challenge of one's own over text (or the embedded default) and settle in it.

    `sources` are paths, and URLs with a digest; `field` is the one that holds the text in files of records. `tracks`
    are some of `own_tracks`.
    `tokenizer` is a byte-level BPE file of the `tokenizers` library; bytes are the tokens where none is given.
    `constitution` is the default where none is given; `maintainers` are the peer ids of those who can amend it, by
    default the founder alone.

    Raises `UserError` if the home is taken or the text too little, `CorpusError` for text that cannot be used,
    `TokenizerError` for such a file, `ChallengeError` for a name that cannot be one.
    """
    if home.is_initialised():
        home.settle(home.challenge(), {})  # raises, before a long build
    pinned = None if tokenizer is None else BpeTokens(tokenizer)
    rules = constitution or default_constitution()
    path, written = prepare(sources, home.corpora, field=field, downloads=home.path / "downloads", progress=progress)
    salt = usable_salt(Corpus.open(path), VALIDATION_SHARE, tracks, pinned or ByteTokens())
    challenge = Challenge(
        name=name,
        founder=peer_id(home.key().public_key()),
        maintainers=tuple(maintainers),
        constitution=rules.digest(),
        tokenizer="bytes" if tokenizer is None else TokenizerRef(digest=hashlib.sha256(tokenizer).hexdigest()),
        corpus=CorpusRef(digest=written.digest, bytes=written.text_bytes, documents=written.documents),
        split=Split(public_salt=salt.hex(), validation_share=VALIDATION_SHARE),
        tracks=dict(tracks),
    )
    challenge = from_canonical(challenge.canonical())  # what nobody could read, we do not write
    blobs = {track.baseline: baseline_program(name) for name, track in tracks.items()}
    blobs[challenge.constitution] = rules.canonical()
    if challenge.tokenizer != "bytes" and tokenizer is not None:
        blobs[challenge.tokenizer.digest] = tokenizer
    if written.packed_bytes <= BLOB_BYTES_MAX:
        blobs[written.digest] = path.read_bytes()
    home.settle(challenge, blobs)
    return challenge
