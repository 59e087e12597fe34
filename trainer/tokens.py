"""Text to tokens, and the bytes that each token stands for.

`bytes` is its own tokenizer. The other kind is byte-level BPE in a file of the `tokenizers` library, pinned by digest
in the challenge. Bits *per byte* can be compared only if every byte of the text is in exactly one token, so:

* normalisers, prefix spaces and anything else that alters text are refused: the tokens' bytes, laid end to end, have
  to be the text again, and that is checked for every document that is encoded;
* no special token is ever produced: none is added around a text, and one that is spelled out in it is taken apart.

Source of the byte alphabet: Radford et al. (2019), GPT-2, `bytes_to_unicode` in encoder.py.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray

from trainer.challenge import TOKENIZER_BYTES_MAX, VOCAB_SIZE_BYTES, Challenge
from trainer.evaluate import Tokens


class TokenizerError(ValueError):
    """A tokenizer that cannot be used, or a text that it cannot represent; the message says what to do."""


class Tokenizer(Protocol):
    vocab_size: int
    byte_lengths: NDArray[np.int64]  # (V,): how many bytes of text each token stands for

    def encode(self, text: bytes) -> Tokens:
        """(n,) uint8 or int32. Raises `TokenizerError`."""

    def __hash__(self) -> int:
        """Of this very object: what was prepared with it is found again."""


class ByteTokens:
    """Every byte is a token."""

    vocab_size = VOCAB_SIZE_BYTES
    byte_lengths = np.ones(VOCAB_SIZE_BYTES, np.int64)

    def encode(self, text: bytes) -> NDArray[np.uint8]:
        return np.frombuffer(text, np.uint8)


class BpeTokens:
    """Byte-level BPE by a `tokenizers` file. Raises `TokenizerError` for a file of another kind."""

    def __init__(self, file: bytes) -> None:
        if len(file) > TOKENIZER_BYTES_MAX:
            raise TokenizerError(f"tokenizer of {len(file)} bytes is over the limit of {TOKENIZER_BYTES_MAX}")
        try:
            description = json.loads(file)
            parts = [description[name] for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")]
            self._tokenizer = tokenizers.Tokenizer.from_str(file.decode())
        except Exception as error:  # from_str raises plain Exception for whatever it does not like
            raise TokenizerError(f"not a file of the tokenizers library: {error}") from error
        normalizer, splitter, model, added = parts
        if normalizer is not None:
            raise TokenizerError("the tokenizer normalises text, so its tokens do not stand for bytes: remove that")
        if not isinstance(model, dict) or model.get("type") != "BPE" or not _is_byte_level(splitter):
            raise TokenizerError(
                "only byte-level BPE gives bits per byte: the model has to be BPE, and ByteLevel with "
                "add_prefix_space false among the pre-tokenizers"
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # a special token spelled out in the text is ordinary text
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        special = {token["id"] for token in added if token["special"]}
        literal = {token["id"]: token["content"].encode() for token in added if not token["special"]}
        self._bytes = [b""] * self.vocab_size
        for text, token in self._tokenizer.get_vocab().items():
            if token in literal:
                self._bytes[token] = literal[token]
            elif token not in special and all(character in _BYTES for character in text):
                self._bytes[token] = bytes(_BYTES[character] for character in text)
        self.byte_lengths = np.array([len(token) for token in self._bytes], np.int64)

    def encode(self, text: bytes) -> NDArray[np.int32]:
        try:
            tokens = self._tokenizer.encode(text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError as error:
            raise TokenizerError(
                "a document is not UTF-8, and BPE reads nothing else: use the tokenizer bytes"
            ) from error
        if b"".join(self._bytes[token] for token in tokens) != text:
            raise TokenizerError(
                "the tokens of a document are not its text again: the tokenizer lacks some byte, or alters text"
            )
        return np.array(tokens, np.int32)


def tokenizer_for(challenge: Challenge, file: bytes | None) -> Tokenizer:
    """The tokenizer of `challenge`, from its pinned `file` if it has one. Raises `TokenizerError`."""
    reference = challenge.tokenizer
    if reference == "bytes":
        return ByteTokens()
    if file is None:
        raise TokenizerError(f"the challenge needs the tokenizer {reference.digest}: fetch it from a peer")
    if hashlib.sha256(file).hexdigest() != reference.digest:
        raise TokenizerError(f"the tokenizer file is not the challenge's: fetch {reference.digest} again")
    return BpeTokens(file)


def rows(texts: Sequence[Tokens], seq_len: int, eval_bytes: int, byte_lengths: NDArray[np.int64]) -> Tokens:
    """Rows to evaluate, (N, seq_len + 1): all tokens but a row's first are targets.

    The texts are laid end to end, cut so that no token is a target twice, and as many cuts as make about `eval_bytes`
    bytes of targets are taken at equal distances; where there is less text, all of them. With byte tokens these are
    `corpus.validation_rows`. Raises `ValueError` if there is not one row.
    """
    stream = np.concatenate(texts)
    available = (len(stream) - 1) // seq_len
    if available < 1:
        raise ValueError(
            f"{len(stream)} tokens of validation text do not fill one row of {seq_len + 1}: add text to the corpus, "
            "raise the validation share or shorten seq_len"
        )
    tokens_wanted = eval_bytes * len(stream) // int(byte_lengths[stream].sum())
    wanted = min(available, max(1, tokens_wanted // seq_len))
    starts = [(2 * row + 1) * available // (2 * wanted) * seq_len for row in range(wanted)]
    return np.stack([stream[start : start + seq_len + 1] for start in starts])


def _is_byte_level(splitter: object) -> bool:
    if not isinstance(splitter, dict):
        return False
    if splitter.get("type") == "ByteLevel":
        return splitter.get("add_prefix_space") is False
    inner = splitter.get("pretokenizers")
    return splitter.get("type") == "Sequence" and isinstance(inner, list) and any(map(_is_byte_level, inner))


def _byte_alphabet() -> dict[str, int]:
    """Character to byte: printable Latin-1 stands for itself, each other byte for the next character from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()
