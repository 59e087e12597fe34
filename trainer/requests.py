"""What a node and its runner say to each other over the runner's stdin and stdout.

A frame is a u32 big-endian length and that many bytes of msgpack. The node sends one `Setup`, waits for `Ready`, and
then sends one `TrialRequest` at a time; each is answered by `Measured`, or by `Failed` where the trial could not be
made (as opposed to a program that failed, which is a measurement). Closing the runner's stdin ends it at once. No
torch and no trio here: both sides import this module.
"""

import struct
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta, Struct

from ledger.predicates import PROGRAM_BYTES_MAX, Measurement, Name, Seed
from trainer.challenge import CHALLENGE_BYTES_MAX

FRAME_BYTES_MAX = 256 * 1024
LOG_CHARACTERS_MAX = 10_000
FilePath = Annotated[str, Meta(min_length=1, max_length=4096)]
HEADER_BYTES = 4


class FrameError(Exception):
    """Bytes on the runner's pipe that are not a message of this protocol."""


class _Message(Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    pass


class Setup(_Message, frozen=True):
    """What to work on: canonical form of the challenge, the file with its packed corpus, and its tokenizer's if any."""

    challenge: Annotated[bytes, Meta(max_length=CHALLENGE_BYTES_MAX)]
    corpus_path: FilePath
    tokenizer_path: FilePath | None = None


class TrialRequest(_Message, frozen=True):
    """Train and evaluate `program` in `track`, with `seed`, on the split by `salt`."""

    program: Annotated[bytes, Meta(max_length=PROGRAM_BYTES_MAX)]
    track: Name
    seed: Seed
    salt: Annotated[bytes, Meta(min_length=1, max_length=64)]  # a BLAKE2b key (corpus.py)

    def __post_init__(self) -> None:
        if len(self.program) > PROGRAM_BYTES_MAX:  # msgspec checks what it decodes, not what we construct
            raise ValueError(f"program of {len(self.program)} bytes is over the limit of {PROGRAM_BYTES_MAX}")


class Ready(_Message, frozen=True):
    """Challenge and corpus are loaded and agree, and the sandbox works."""

    sandbox: str  # one line for people


class Measured(_Message, frozen=True):
    measurement: Measurement
    log: Annotated[str, Meta(max_length=LOG_CHARACTERS_MAX)] = ""  # sanitised end of what the training printed


class Failed(_Message, frozen=True):
    """No fault of a program: what is wrong with the setup, request or machine, and what to do."""

    reason: str


Request = Setup | TrialRequest
Reply = Ready | Measured | Failed

_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """The whole frame of a message. Raises `FrameError` if it would be too long to be read."""
    body = msgspec.msgpack.encode(message)
    header = struct.pack(">I", len(body))
    body_bytes(header)
    return header + body


def body_bytes(header: bytes) -> int:
    """Length of the body after a header of `HEADER_BYTES`. Raises `FrameError`."""
    (size,) = struct.unpack(">I", header)
    if not 0 < size <= FRAME_BYTES_MAX:
        raise FrameError(f"frame of {size} bytes is not within 1 and {FRAME_BYTES_MAX}")
    return int(size)


def decode_request(body: bytes) -> Request:
    """Raises `FrameError`."""
    try:
        return _REQUESTS.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"malformed request: {error}") from error


def decode_reply(body: bytes) -> Reply:
    """Raises `FrameError`."""
    try:
        return _REPLIES.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"malformed reply: {error}") from error


def read_body(stream: BinaryIO) -> bytes | None:
    """The next frame's body from a blocking stream; None at a clean end. Raises `FrameError`."""
    header = stream.read(HEADER_BYTES)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        raise FrameError("the pipe ended within a frame's header")
    size = body_bytes(header)
    body = stream.read(size)
    if len(body) < size:
        raise FrameError("the pipe ended within a frame")
    return body
