"""One trial by hand: the same sandbox, evaluation and measurement as a node's, recorded nowhere."""

from ledger.statements import PROGRAM_BYTES_MAX, Measurement
from node.errors import UserError
from node.home import Home
from node.lanes import open_lane
from trainer.requests import TrialRequest
from trainer.sandbox.preflight import preflight


async def run_single_trial(home: Home, program: bytes, track: str, seed: int) -> Measurement:
    """Train and evaluate on the home's public split. Raises `UserError`, `SandboxUnavailable`."""
    challenge = home.challenge()
    preflight()
    if track not in challenge.tracks:
        raise UserError(f"the challenge has no track {track!r}; it has {', '.join(challenge.tracks)}.")
    if len(program) > PROGRAM_BYTES_MAX:
        raise UserError(f"the program has {len(program)} bytes; the limit is {PROGRAM_BYTES_MAX}.")
    store = home.store(challenge)
    async with open_lane(challenge, home.corpus_path(challenge, store)) as lane:
        salt = home.public_split(challenge).salt
        return await lane.trial(TrialRequest(program=program, track=track, seed=seed, salt=salt))
