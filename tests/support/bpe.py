"""A small byte-level BPE tokenizer, trained on the spot."""

import random
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

WORDS = ["bee", "dance", "hive", "waggle", "nectar", "swarm", "Honig", "Bänke", "蜂", "\n"]


def texts(count: int = 60) -> list[str]:
    rng = random.Random(5)
    return [" ".join(rng.choices(WORDS, k=150)) for _ in range(count)]


def byte_level(vocab_size: int = 300, **changes: Any) -> bytes:
    """A tokenizer file, trained on `texts`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer.to_str().encode()
