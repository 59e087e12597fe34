"""Signed checkpoints: what an author says the tree of a feed was at some size. *Pure.*

A checkpoint is a signed note whose text names the log (its *origin*), the number of leaves and the root:

    waggle/<challenge digest>/<author's peer id>/<feed>
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — <origin again, as the name of the key> <base64 of key id and Ed25519 signature>

It is plain text so that the witnesses and monitors of transparency logs can read it without us. Signatures by others,
such as witnesses', are allowed and not judged. A trusted key is the caller's to choose: for a feed it is the one in the
author's peer id. Whether two checkpoints are of one history is merkle.py's to say.

That key signs other things too (envelope.py), and neither signature can pass for the other: all that is signed there
has a space before its first newline, which no origin has.

Sources: https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note.
"""

import base64
import re
from hashlib import sha256
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import BadStatement
from ledger.merkle import HASH_BYTES, TREE_SIZE_MAX
from ledger.predicates import Feed, PeerId, Sha256

NOTE_BYTES_MAX = 128 * 1024  # signed-note: accept at least 16 signatures, post-quantum ones of 5 kB included

_ED25519 = b"\x01"  # signed-note's signature type
_KEY_ID_BYTES = 4
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


class Checkpoint(NamedTuple):
    """A tree's head."""

    origin: str  # which log
    size: int  # leaves
    root: bytes  # (32,)


class Origin(NamedTuple):
    """The feed that an origin names."""

    challenge: Sha256
    author: PeerId
    feed: Feed


def origin(challenge: str, author: str, feed: str) -> str:
    """The origin line of a feed's checkpoints."""
    return f"waggle/{challenge}/{author}/{feed}"


def parse_origin(text: str) -> Origin:
    """The inverse of `origin`. Raises `BadStatement` for any other text."""
    scheme, *parts = text.split("/")
    try:
        found = msgspec.convert(parts, Origin)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise BadStatement("not the origin of a feed: waggle/<challenge>/<author>/<feed>") from error
    if scheme != "waggle":
        raise BadStatement("the origin of a feed starts with waggle/")
    return found


def sign(key: Ed25519PrivateKey, checkpoint: Checkpoint) -> str:
    """The signed text of a checkpoint.

    Never sign two checkpoints of one origin that are not of one history. Raises `BadStatement` for what
    `open_checkpoint` would refuse.
    """
    text = f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode()}\n"
    _parse(text)
    return sign_note(key, checkpoint.origin, text)


def open_checkpoint(note: str, key: Ed25519PublicKey) -> Checkpoint:
    """Check that a checkpoint is signed by `key` under the name of its origin, and read it.

    The text is read only after its signature has been verified. Extension lines, which the format allows and we never
    write, are left out. Raises `BadStatement`. Whether it is the expected log is the caller's to compare.
    """
    name = note.partition("\n")[0]
    return _parse(open_note(note, name, key))


def sign_note(key: Ed25519PrivateKey, name: str, text: str) -> str:
    """A signed note: `text`, which ends with a newline, and one signature by the key called `name`.

    Raises `BadStatement` for what `open_note` would refuse.
    """
    signature = _key_id(name, key.public_key()) + key.sign(text.encode())
    note = f"{text}\n— {name} {base64.b64encode(signature).decode()}\n"
    open_note(note, name, key.public_key())
    return note


def open_note(note: str, name: str, key: Ed25519PublicKey) -> str:
    """The text of a signed note, if it is signed by `key` under `name`. Raises `BadStatement`, saying what is wrong.

    1. It is Unicode of bounded size, without control characters other than newlines.
    2. Its last empty line parts the text from the signatures, and each of these is well formed.
    3. At least one is by the named key, and all that claim to be are. Those of other keys are passed over.
    """
    # 1
    try:
        size_bytes = len(note.encode())
    except UnicodeEncodeError as error:
        raise BadStatement("a signed note that is not Unicode") from error
    if size_bytes > NOTE_BYTES_MAX:
        raise BadStatement(f"a signed note of {size_bytes} bytes is over the limit of {NOTE_BYTES_MAX}")
    if any(character < " " and character != "\n" for character in note):
        raise BadStatement("a signed note with control characters")
    # 2
    text, empty_line, tail = note.rpartition("\n\n")
    text += "\n"
    if not empty_line or not tail.endswith("\n"):
        raise BadStatement("not a signed note: text, an empty line, and lines with signatures")
    lines = [_SIGNATURE_LINE.fullmatch(line) for line in tail.removesuffix("\n").split("\n")]
    signatures = [(line[1], decode_base64(line[2])) for line in lines if line]
    if len(signatures) < len(lines) or any(len(signature) <= _KEY_ID_BYTES for _, signature in signatures):
        raise BadStatement("a signed note with a malformed signature line")
    # 3
    expected = (name, _key_id(name, key))
    ours = [each[_KEY_ID_BYTES:] for signer, each in signatures if (signer, each[:_KEY_ID_BYTES]) == expected]
    if not ours:
        raise BadStatement("a signed note without a signature by the expected key")
    try:
        for signature in ours:
            key.verify(signature, text.encode())
    except InvalidSignature as error:
        raise BadStatement("a signed note whose text is not what was signed") from error
    return text


def decode_base64(text: str) -> bytes:
    """Bytes of the one standard base64 text that stands for them (RFC 4648 section 4). Raises `BadStatement`."""
    try:
        data = base64.b64decode(text)
    except ValueError as error:
        raise BadStatement("malformed base64") from error
    # Python ignores characters outside the alphabet and bits that nothing uses: many texts would mean the same.
    if base64.b64encode(data).decode() != text:
        raise BadStatement("base64 in other than its one standard form")
    return data


def _key_id(name: str, key: Ed25519PublicKey) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + key.public_bytes_raw()).digest()[:_KEY_ID_BYTES]


def _parse(text: str) -> Checkpoint:
    """The checkpoint in a note's text, which ends with a newline."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise BadStatement("not a checkpoint: three lines for origin, size and root, and none of them empty")
    size = int(lines[1]) if _SIZE.fullmatch(lines[1]) else TREE_SIZE_MAX + 1
    if size > TREE_SIZE_MAX:
        raise BadStatement("not a checkpoint: its second line is no tree size")
    root = decode_base64(lines[2])
    if len(root) != HASH_BYTES:
        raise BadStatement("not a checkpoint: its third line is no root hash")
    return Checkpoint(lines[0], size, root)
