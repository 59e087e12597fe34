"""The first minutes of a node that knows nothing but a peer's address: it fetches the swarm by digest.

The peer is trusted for one thing only, which challenge this is; everything else is checked against digests that
follow from it. Whoever needs to be sure of the challenge compares the digest that this prints.
"""

from collections.abc import Callable, Sequence

import trio

from gossip.errors import GossipError, NotThere
from gossip.limits import BLOB_BYTES_MAX, REDIAL_S_MAX, REDIAL_S_MIN
from gossip.protocols import fetch_blob, fetch_status
from gossip.transport import Transport
from node.errors import UserError
from node.home import Home
from trainer.challenge import CHALLENGE_BYTES_MAX, ChallengeError, from_canonical
from trainer.corpus import CorpusError
from trainer.tokens import TokenizerError


async def fetch_challenge(
    transport: Transport, home: Home, addresses: Sequence[str], report: Callable[[str], None]
) -> None:
    """Fetch challenge, corpus and baselines from the first peer that has them, and settle in `home`.

    Goes round the addresses until one answers, for ever, saying why each fails. Raises `BadAddress` for one that
    can never work, `UserError` for a corpus that has to be brought by hand.
    """
    backoff_s = REDIAL_S_MIN
    while True:
        for address in addresses:
            try:
                await _fetch_from(transport, home, await transport.connect(address), report)
            except (GossipError, ChallengeError, CorpusError, TokenizerError) as error:
                report(f"cannot join through {address}: {error}")
            else:
                return
        report(f"this home has no challenge yet, so there is nothing to work on; trying again in {backoff_s:.0f} s")
        await trio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, REDIAL_S_MAX)


async def _fetch_from(transport: Transport, home: Home, peer: str, report: Callable[[str], None]) -> None:
    status = await fetch_status(transport, peer)
    if status.challenge is None:
        raise NotThere("that node has no challenge itself yet")
    challenge = from_canonical(await fetch_blob(transport, peer, status.challenge, CHALLENGE_BYTES_MAX))
    report(f"joining challenge {challenge.name} {challenge.digest()[:12]} of {challenge.founder[-8:]}")
    blobs: dict[str, bytes] = {}
    wanted = {track.baseline: f"baseline of {name}" for name, track in challenge.tracks.items()}
    if challenge.tokenizer != "bytes":
        wanted[challenge.tokenizer.digest] = "tokenizer"
    own_copy = home.corpus_file(challenge.corpus.digest)
    if not own_copy.exists():
        if challenge.corpus.bytes > BLOB_BYTES_MAX:
            raise UserError(
                f"the corpus of challenge {challenge.name} has {challenge.corpus.bytes} bytes, and peers can pass on "
                f"{BLOB_BYTES_MAX} for now. Copy the file corpus/{challenge.corpus.digest} from the founder's home to "
                f"{own_copy}, and start again."
            )
        wanted[challenge.corpus.digest] = f"corpus, {challenge.corpus.bytes / 1e6:.1f} MB of text"
    for digest, what in wanted.items():
        blobs[digest] = await fetch_blob(transport, peer, digest, BLOB_BYTES_MAX)
        report(f"fetched the {what}")
    home.settle(challenge, blobs)
