"""A node's folder: what lies where, and how it comes into being.

challenge.toml    what the swarm works on; written last, so a home without it is unfinished
identity.key      the node's private key, mode 0600
private.salt      the salt of the node's private split, mode 0600
ledger.db         all signed statements and the blobs that they name
corpus/           the corpus unpacked from its blob, for the runner
incumbent/        git working tree of the program that the node builds on
status.json       what a running node is doing, for `waggle status`
lock              held by the running node
"""

import fcntl
import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.envelope import peer_id
from ledger.queries import counts
from ledger.store import Store
from node.errors import UserError
from node.identity import load_or_create_key, write_secret
from trainer.challenge import Challenge, CorpusRef, Split, Track, from_canonical, load
from trainer.corpus import Corpus, from_paths, split, standard_library, validation_rows

SALT_BYTES = 16
SALTS_DRAWN_MAX = 100
VALIDATION_SHARE = 0.1  # of the documents
CPU_TRACK = "cpu-quick"


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
        self.incumbent = path / "incumbent"
        self.status_file = path / "status.json"

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
        self.path.mkdir(parents=True, exist_ok=True)
        return load_or_create_key(self.path / "identity.key")

    def public_split(self, challenge: Challenge) -> SplitChoice:
        return SplitChoice("public", bytes.fromhex(challenge.split.public_salt))

    def private_split(self) -> SplitChoice:
        """This node's own split, which nobody else can fit a program to; its name commits to the salt."""
        path = self.path / "private.salt"
        salt = path.read_bytes() if path.exists() else b""
        if len(salt) != SALT_BYTES:
            raise UserError(
                f"{path} is damaged: {len(salt)} bytes instead of {SALT_BYTES}. Put its backup in its place, or use "
                "another --home."
            )
        return SplitChoice("private:" + hashlib.sha256(salt).hexdigest(), salt)

    def corpus_path(self, challenge: Challenge, store: Store) -> Path:
        """The packed corpus as a file, taken out of the ledger once."""
        path = self.path / "corpus" / challenge.corpus.digest
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            unfinished = path.with_suffix(".new")
            unfinished.write_bytes(store.blob(challenge.corpus.digest))
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

        Raises `UserError` if it is already the home of one.
        """
        if self.is_initialised():
            raise UserError(
                f"{self.path} is already the home of challenge {self.challenge().digest()[:12]}. "
                "Start it with `waggle start`, or give another --home."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.key()
        salt = usable_salt(
            Corpus.unpack(blobs[challenge.corpus.digest]), challenge.split.validation_share, challenge.tracks
        )
        if not (self.path / "private.salt").exists():
            write_secret(self.path / "private.salt", salt)
        self._discard_unfinished_ledger()
        store = Store.create(self.ledger_file, challenge.digest())
        store.put_blob(challenge.canonical())
        for data in blobs.values():
            store.put_blob(data)
        store.close()
        unfinished = self.challenge_file.with_suffix(".new")
        unfinished.write_text(challenge.to_toml())
        unfinished.replace(self.challenge_file)

    def _discard_unfinished_ledger(self) -> None:
        """Remove what an interrupted attempt left; never a ledger in which anything was stated."""
        if not self.ledger_file.exists():
            return
        store = Store.open(self.ledger_file)
        stated = sum(counts(store).values())
        store.close()
        if stated:
            raise UserError(
                f"{self.ledger_file} holds {stated} statements, but {self.challenge_file} is gone. "
                "Restore that file, or use another --home."
            )
        self.ledger_file.unlink()


def baseline_program() -> bytes:
    """The text of the CPU track's baseline."""
    return files("trainer.programs").joinpath("cpu_quick.py").read_bytes()


def usable_salt(corpus: Corpus, validation_share: float, tracks: Mapping[str, Track]) -> bytes:
    """A random salt under which the corpus gives training and validation text for every track.

    Of a small corpus some salts put nothing, or everything, on one side. Raises `UserError` if none can be found.
    """
    reason = ""
    for _ in range(SALTS_DRAWN_MAX):
        salt = secrets.token_bytes(SALT_BYTES)
        try:
            _, validation = split(corpus, salt, validation_share)
            for track in tracks.values():
                validation_rows(validation, track.seq_len, track.eval_bytes)
        except ValueError as error:
            reason = str(error)
        else:
            return salt
    raise UserError(f"the corpus is too small to be split into training and validation text: {reason}")


def found_challenge(home: Home, name: str, paths: Sequence[Path], budget_cpu_s: float) -> Challenge:
    """Make a challenge of one's own over text files (or the embedded default) and settle in it.

    Raises `UserError` if the home is taken or the text too little, `CorpusError` for text that cannot be used,
    `ChallengeError` for a name that cannot be one.
    """
    if home.is_initialised():
        home.settle(home.challenge(), {})  # raises, before a long build
    corpus = from_paths(paths) if paths else standard_library()
    packed, baseline = corpus.packed(), baseline_program()
    tracks = {CPU_TRACK: Track(baseline=hashlib.sha256(baseline).hexdigest(), budget_cpu_s=budget_cpu_s)}
    salt = usable_salt(corpus, VALIDATION_SHARE, tracks)
    challenge = Challenge(
        name=name,
        founder=peer_id(home.key().public_key()),
        corpus=CorpusRef(digest=corpus.digest(), bytes=corpus.text_bytes, documents=len(corpus.documents)),
        split=Split(public_salt=salt.hex(), validation_share=VALIDATION_SHARE),
        tracks=tracks,
    )
    challenge = from_canonical(challenge.canonical())  # what nobody could read, we do not write
    home.settle(challenge, {challenge.corpus.digest: packed, tracks[CPU_TRACK].baseline: baseline})
    return challenge
