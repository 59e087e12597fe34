"""The trusted process that makes trials: `python -m trainer.runner`, one for each compute lane.

It reads a `Setup` and then `TrialRequest`s on stdin and answers each on stdout (requests.py). It runs until its stdin
ends, and then stops at once, a running trial included.

How it dies with its node: when the node ends, in whatever way, the kernel closes the other end of stdin; a thread waits
for just that and ends this process, whereupon the kernel kills the sandboxes (`--die-with-parent`). PR_SET_PDEATHSIG
would not do: it follows the *thread* that spawned the runner, and trio spawns from worker threads, which end when idle.

SIGINT is ignored: Ctrl-C in a terminal reaches the whole process group, and what it means is for the node to decide.
"""

import os
import select
import signal
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

from trainer.challenge import Challenge, ChallengeError, Track, from_canonical
from trainer.corpus import Corpus, CorpusError
from trainer.requests import (
    Failed,
    FrameError,
    Measured,
    Ready,
    Reply,
    Setup,
    TrialRequest,
    decode_request,
    encode,
    read_body,
)
from trainer.sandbox.command import SandboxUnavailable
from trainer.sandbox.pool import Pool
from trainer.sandbox.preflight import preflight
from trainer.sandbox.process import Sandbox
from trainer.tokens import Tokenizer, TokenizerError, tokenizer_for
from trainer.trial import ImpossibleTrial, Mode, Start, run_trial, start_sandbox

WAITING: dict[Mode, int] = {"train": 1, "eval": 2}  # a trial's training; its evaluation and its audit
EXIT_STDIN_ENDED = 0
EXIT_UNUSABLE = 1


class UnusableSetup(Exception):
    """Challenge and corpus cannot be worked on; the message says why."""


def serve(requests: BinaryIO, replies: BinaryIO) -> int:
    """Answer requests until they end; the exit status. A request that cannot be understood ends it."""

    def answer(reply: Reply) -> None:
        replies.write(encode(reply))
        replies.flush()

    try:
        body = read_body(requests)
        if body is None:
            return EXIT_STDIN_ENDED
        setup = decode_request(body)
        if not isinstance(setup, Setup):
            raise FrameError("the first message has to be a Setup")
        challenge, corpus, tokenizer = load(setup)
        answer(Ready(preflight()))
        with ExitStack() as stack:
            start = _warm(stack)
            while (body := read_body(requests)) is not None:
                request = decode_request(body)
                if not isinstance(request, TrialRequest):
                    raise FrameError("after Setup every message has to be a TrialRequest")
                answer(trial(request, challenge, corpus, tokenizer, start))
    except (FrameError, UnusableSetup, SandboxUnavailable) as error:
        answer(Failed(str(error)))
        return EXIT_UNUSABLE
    return EXIT_STDIN_ENDED


def load(setup: Setup) -> tuple[Challenge, Corpus, Tokenizer]:
    """Challenge, corpus and tokenizer of a setup, checked against each other. Raises `UnusableSetup`."""
    try:
        challenge = from_canonical(setup.challenge)
        corpus = Corpus.open(Path(setup.corpus_path))  # maps it: it may be larger than memory
        file = None if setup.tokenizer_path is None else _read(setup.tokenizer_path)
        tokenizer = tokenizer_for(challenge, file)
    except (ChallengeError, CorpusError, TokenizerError) as error:
        raise UnusableSetup(str(error)) from error
    except OSError as error:
        raise UnusableSetup(f"{setup.corpus_path}: {error.strerror}: fetch it again") from error
    if corpus.digest() != challenge.corpus.digest:
        raise UnusableSetup(f"{setup.corpus_path} is not the challenge's corpus: fetch {challenge.corpus.digest} again")
    return challenge, corpus, tokenizer


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnusableSetup(f"{path}: {error.strerror}: fetch it again") from error


def _warm(stack: ExitStack) -> Start:
    """Gives sandboxes that have imported torch already; those that wait end with the stack.

    They are started here, by the main thread: a sandbox dies with the thread that spawned it.
    """
    pools: dict[tuple[Mode, Track], Pool] = {}

    def start(mode: Mode, track: Track) -> Sandbox:
        if (mode, track) not in pools:
            pools[mode, track] = stack.enter_context(Pool(partial(start_sandbox, mode, track), WAITING[mode]))
        return pools[mode, track].take()

    return start


def trial(
    request: TrialRequest, challenge: Challenge, corpus: Corpus, tokenizer: Tokenizer, start: Start = start_sandbox
) -> Reply:
    logs: list[str] = []
    try:
        measurement = run_trial(request, challenge, corpus, tokenizer, start=start, log=logs.append)
        return Measured(measurement, "".join(logs))
    except (ImpossibleTrial, SandboxUnavailable) as error:
        return Failed(str(error))


def _end_with(descriptor: int) -> None:
    """End this process as soon as nobody holds the other end of the pipe `descriptor`."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP and POLLERR are always reported
    poll.poll()
    os._exit(EXIT_STDIN_ENDED)


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # what a library prints must not land between frames
        threading.Thread(target=_end_with, args=(requests.fileno(),), daemon=True).start()
        return serve(requests, replies)


if __name__ == "__main__":
    sys.exit(main())
