"""Tokens stand for bytes: both tokenizers give bits per byte, and whatever would not is refused."""

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import tokenizers
from bpe import byte_level, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from trainer.challenge import Challenge, CorpusRef, Split, TokenizerRef, Track
from trainer.corpus import Corpus, Document, validation_rows
from trainer.evaluate import row_nats, score
from trainer.requests import TrialRequest
from trainer.tokens import BpeTokens, ByteTokens, TokenizerError, rows, tokenizer_for
from trainer.trial import ImpossibleTrial, run_trial

SALT = b"0123456789abcdef"
FILE = byte_level()
BPE = BpeTokens(FILE)


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(max_size=200))
def test_every_byte_of_any_text_is_in_one_token(text: str) -> None:
    data = text.encode()
    tokens = BPE.encode(data)
    assert tokens.dtype == np.int32
    assert BPE.byte_lengths[tokens].sum() == len(data)
    assert (BPE.byte_lengths[tokens] > 0).all()


def test_words_are_few_tokens() -> None:
    data = texts()[0].encode()
    assert len(BPE.encode(data)) < len(data) / 2
    assert 257 < BPE.vocab_size <= 300


def test_special_tokens_are_never_produced() -> None:
    special = tokenizers.Tokenizer.from_str(FILE.decode()).token_to_id("<|end|>")
    tokens = BPE.encode(b"a bee <|end|> a hive")
    assert special not in tokens
    assert BPE.byte_lengths[special] == 0
    assert BPE.byte_lengths[tokens].sum() == len(b"a bee <|end|> a hive")


def test_added_tokens_that_are_text_count_their_bytes() -> None:
    tokenizer = tokenizers.Tokenizer.from_str(FILE.decode())
    tokenizer.add_tokens(["Bänke hive"])
    bpe = BpeTokens(tokenizer.to_str().encode())
    tokens = bpe.encode("eine Bänke hive".encode())
    assert bpe.byte_lengths[tokens].sum() == len("eine Bänke hive".encode())
    assert bpe.byte_lengths[tokenizer.token_to_id("Bänke hive")] == 11


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (lambda: byte_level(normalizer=normalizers.Lowercase()), "normalises"),
        (lambda: byte_level(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "add_prefix_space"),
        (lambda: byte_level(pre_tokenizer=pre_tokenizers.Whitespace()), "byte-level"),
        (lambda: tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str().encode(), "byte-level"),
        (lambda: b"{}", "not a file"),
        (lambda: b"\xff", "not a file"),
    ],
    ids=["lower case", "prefix space", "white space", "words", "empty", "binary"],
)
def test_a_tokenizer_whose_tokens_are_not_the_text_is_refused(file: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        BpeTokens(file())


def test_a_text_that_cannot_be_represented_is_refused() -> None:
    with pytest.raises(TokenizerError, match="UTF-8"):
        BPE.encode(b"\xff")
    tokenizer = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lacking = BpeTokens(tokenizer.to_str().encode())
    assert lacking.encode(b"ab").tolist() == [0, 1]
    with pytest.raises(TokenizerError, match="lacks some byte"):
        lacking.encode(b"abc")


def test_the_file_is_the_one_that_the_challenge_pins() -> None:
    assert isinstance(tokenizer_for(challenge(None), None), ByteTokens)
    assert tokenizer_for(challenge(FILE), FILE).vocab_size == BPE.vocab_size
    with pytest.raises(TokenizerError, match="fetch it"):
        tokenizer_for(challenge(FILE), None)
    with pytest.raises(TokenizerError, match="not the challenge's"):
        tokenizer_for(challenge(FILE), FILE + b" ")


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=20), st.integers(1, 40), st.integers(1, 2000))
def test_rows_of_bytes_are_those_of_the_corpus(documents: list[bytes], seq_len: int, eval_bytes: int) -> None:
    tokens = [ByteTokens().encode(text) for text in documents]
    try:
        expected = validation_rows(documents, seq_len, eval_bytes)
    except ValueError:
        with pytest.raises(ValueError, match="do not fill one row"):
            rows(tokens, seq_len, eval_bytes, ByteTokens.byte_lengths)
        return
    assert [row.tobytes() for row in rows(tokens, seq_len, eval_bytes, ByteTokens.byte_lengths)] == expected


def test_bits_per_byte_of_bpe_equal_a_reference_in_plain_floats() -> None:
    shown = rows([BPE.encode(text.encode()) for text in texts(9)], 12, 1500, BPE.byte_lengths)
    target_bytes = int(BPE.byte_lengths[shown[:, 1:]].sum())
    assert abs(target_bytes - 1500) < 100
    generator = np.random.default_rng(1)
    logits = (3 * generator.standard_normal((len(shown), 12, BPE.vocab_size))).astype(np.float32)
    bits, size = 0.0, 0
    decode = tokenizers.Tokenizer.from_str(FILE.decode()).id_to_token
    for row, predictions in zip(shown.tolist(), logits.astype(np.float64).tolist(), strict=True):
        for target, prediction in zip(row[1:], predictions, strict=True):
            total = math.fsum(math.exp(value) for value in prediction)
            bits -= math.log2(math.exp(prediction[target]) / total)
            size += len(decode(target))  # one character of the byte alphabet for each byte
    nats = row_nats(shown, range(len(shown)), BPE.vocab_size, io.BytesIO(logits.tobytes()).read)
    result = score(nats, target_bytes)
    assert result.evaluated_bytes == size
    assert result.bits_per_byte == pytest.approx(bits / size, rel=1e-12)


CORPUS = Corpus(tuple(Document(f"{index}.txt", text.encode()) for index, text in enumerate(texts())))
UNIGRAM = """
import torch

class Unigram(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens):
        assert tokens.dtype == torch.int64
        return self.table.expand(*tokens.shape, -1)

def build(vocab_size, seq_len):
    return Unigram(vocab_size)

def train(model, task):
    assert task.tokens.dtype == torch.int32 and int(task.tokens.max()) < task.vocab_size
    counts = torch.bincount(task.tokens, minlength=task.vocab_size)
    model.table.data.copy_((counts + 0.1).log())
"""


def challenge(file: bytes | None) -> Challenge:
    return Challenge(
        name="bpe",
        founder="12D3KooW" + "A" * 44,
        constitution="c" * 64,
        tokenizer="bytes" if file is None else TokenizerRef(digest=hashlib.sha256(file).hexdigest()),
        corpus=CorpusRef(digest=CORPUS.digest(), bytes=CORPUS.text_bytes, documents=len(CORPUS.documents)),
        split=Split(public_salt="0" * 32, validation_share=0.2),
        tracks={"tiny": Track(budget_s=0.5, memory_bytes=2**30, seq_len=16, eval_bytes=4096, baseline="0" * 64)},
    )


def test_a_trial_with_bpe_tokens() -> None:
    request = TrialRequest(UNIGRAM.encode(), "tiny", 1, SALT)
    result = run_trial(request, challenge(FILE), CORPUS, BPE)
    assert result.status == "ok", result.reason
    assert result.val_bpb is not None
    assert 0.6 < result.val_bpb < 0.7  # ten equally likely words: log2(10) bits for 5.4 bytes, space included
    assert 3500 < result.evaluated_bytes < 4600
    with pytest.raises(ImpossibleTrial, match="UTF-8"):
        run_trial(request, challenge(FILE), Corpus((Document("x", b"\xff" * 99), *CORPUS.documents)), BPE)
