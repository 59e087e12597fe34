"""A lane whose trials cost nothing: the score is read off the program's text, with noise fixed by seed and split.

For tests of what is done with scores. Where scores come from is tested with the real runner.
"""

import hashlib
import random
import re

import examples

from ledger.predicates import Measurement
from trainer.requests import TrialRequest

NOISE = 0.01


def program(gain: float, crash_on: str = "") -> bytes:
    """A program that passes the screen and scores 3 - `gain` bits per byte, or crashes on splits so salted (hex)."""
    return (
        f"GAIN = {gain!r}\nCRASH_ON = {crash_on!r}\n\n\n"
        "def build(vocab_size, seq_len): ...\n\n\ndef train(model, task): ...\n"
    ).encode()


class ScriptedLane:
    """A `node.workbench.Lane`; remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[TrialRequest] = []

    async def trial(self, request: TrialRequest) -> Measurement:
        self.requests.append(request)
        text = request.program.decode()
        crash_on = re.search(r"CRASH_ON = '(.*)'", text)
        if crash_on is not None and crash_on[1] and request.salt.hex().startswith(crash_on[1]):
            return examples.measurement(None, "crash")
        found = re.search(r"^GAIN = (\S+)", text, re.MULTILINE)
        digest = hashlib.sha256(request.program + request.salt + request.seed.to_bytes(4, "big")).digest()
        noise = random.Random(digest).gauss(0, NOISE)
        return examples.measurement(3.0 - (float(found[1]) if found else 0.0) + noise)  # a real baseline gains nothing
