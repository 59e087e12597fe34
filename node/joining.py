"""The first minutes of a node that knows nothing but addresses of peers: it fetches the swarm by digest.

Everything is checked against digests that follow from the challenge's. That one an invitation names (invite.py); where
only an address is given, the peer there is believed which challenge this is, and nothing else.

A part that one peer cannot give comes from the next. A corpus goes to its file block by block, from several peers at
once if several were named, and a connection that breaks costs no more than the block that it broke in.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from gossip.blobs import Download, fetch_blob, part_of
from gossip.errors import GossipError, MixedBlob, NotThere, OtherSwarm
from gossip.limits import BLOB_BYTES_MAX, BLOB_FILE_BYTES_MAX, REDIAL_S_MAX, REDIAL_S_MIN
from gossip.protocols import fetch_status
from gossip.transport import Transport
from ledger.blobs import BLOB_BYTES_MAX as LEDGER_BLOB_BYTES_MAX
from node.errors import UserError
from node.home import Home
from policy.constitution import ConstitutionError
from policy.constitution import from_canonical as from_constitution
from trainer.challenge import CHALLENGE_BYTES_MAX, Challenge, ChallengeError, CorpusRef, from_canonical
from trainer.corpus import CorpusError, Progress, packed_bytes_max, silent
from trainer.tokens import TokenizerError

_OTHERS_S = 3.0  # for reaching the other peers, before the corpus is fetched from those that answered


async def fetch_challenge(
    transport: Transport,
    home: Home,
    addresses: Sequence[str],
    report: Callable[[str], None],
    *,
    invited_to: str | None = None,
    progress: Progress = silent,
) -> None:
    """Fetch challenge, corpus and baselines from the peers that have them, and settle in `home`.

    `invited_to` is the digest that the challenge must have, if it is known. Goes round the addresses until it has
    everything, for ever, saying why each fails. Raises `BadAddress` for one that can never work, `UserError` for a
    corpus that has to be brought by hand.
    """
    joiner = _Joiner(transport, home, addresses, report, progress, invited_to)
    backoff_s = REDIAL_S_MIN
    while True:
        for address in addresses:
            try:
                await joiner.fetch_from(await transport.connect(address))
            except (GossipError, ChallengeError, ConstitutionError, CorpusError, TokenizerError) as error:
                report(f"cannot join through {address}: {error}")
            else:
                return
        report(f"this home has no challenge yet, so there is nothing to work on; trying again in {backoff_s:.0f} s")
        await trio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, REDIAL_S_MAX)


class _Joiner:
    """What has been fetched so far, from whomever."""

    def __init__(
        self,
        transport: Transport,
        home: Home,
        addresses: Sequence[str],
        report: Callable[[str], None],
        progress: Progress,
        invited_to: str | None,
    ) -> None:
        self._transport, self._home, self._invited_to = transport, home, invited_to
        self._addresses, self._report, self._progress = addresses, report, progress
        self._challenge: Challenge | None = None
        self._blobs: dict[str, bytes] = {}
        self._corpus: Download | None = None

    async def fetch_from(self, peer: str) -> None:
        """Fetch what is lacking from a connected peer. When this returns, the home is settled."""
        named = (await fetch_status(self._transport, peer)).challenge
        if named is None:
            raise NotThere("that node has no challenge itself yet")
        if self._invited_to not in (None, named):
            raise OtherSwarm(f"that node works on challenge {named}, and the invitation is to {self._invited_to}")
        if self._challenge is None or self._challenge.digest() != named:
            await self._begin(peer, named)
        challenge = self._challenge
        assert challenge is not None, "just begun"
        for digest, what in _small_parts(challenge).items():
            if digest not in self._blobs:
                fetched = await fetch_blob(self._transport, peer, digest, BLOB_BYTES_MAX)
                if digest == challenge.constitution:
                    from_constitution(fetched)  # raises: of a newer Waggle, say
                self._blobs[digest] = fetched
                self._report(f"fetched the {what}")
        await self._fetch_corpus(peer, challenge.corpus)
        await trio.to_thread.run_sync(self._settle, challenge)

    async def _begin(self, peer: str, digest: str) -> None:
        """Start on a challenge; what was fetched of another is dropped, so that no peer makes us hoard."""
        challenge = from_canonical(await fetch_blob(self._transport, peer, digest, CHALLENGE_BYTES_MAX))
        self._report(f"joining challenge {challenge.name} {digest[:12]} of {challenge.founder[-8:]}")
        self._challenge, self._blobs, self._corpus = challenge, {}, None
        kept = part_of(self._home.corpus_file(challenge.corpus.digest))
        for part in self._home.corpora.glob(f"*{kept.suffix}"):
            if part != kept:
                part.unlink()

    async def _fetch_corpus(self, peer: str, corpus: CorpusRef) -> None:
        path = self._home.corpus_file(corpus.digest)
        if path.exists():  # brought by hand, or by a former try
            return
        if corpus.bytes > BLOB_FILE_BYTES_MAX:
            raise UserError(
                f"the corpus has {corpus.bytes} bytes, and peers pass on {BLOB_FILE_BYTES_MAX}. Copy the file "
                f"corpus/{corpus.digest} from the founder's home to {path}, and start again."
            )
        if self._corpus is None:
            what = f"corpus {corpus.digest[:12]}"
            size_max = min(BLOB_FILE_BYTES_MAX, packed_bytes_max(corpus.bytes, corpus.documents))
            self._corpus = Download(
                path, corpus.digest, size_max, lambda done, total: self._progress(what, done, total)
            )
        peers = [peer, *sorted(await self._others() - {peer})]
        named = ", ".join(one[-8:] for one in peers)
        self._report(f"fetching the corpus, {corpus.bytes / 1e6:.1f} MB of text, from {named}")
        try:
            await self._corpus.from_peers(self._transport, peers, self._report_failed)
        except MixedBlob as error:
            self._report(str(error))
            await self._corpus.from_peers(self._transport, peers, self._report_failed)
        self._report("fetched the corpus")

    def _report_failed(self, peer: str, error: GossipError) -> None:
        self._report(f"{peer[-8:]} cannot go on with the corpus, and is left out: {error}")

    async def _others(self) -> set[str]:
        """The peers at all addresses, as far as they can be reached soon."""
        found: set[str] = set()

        async def connect(address: str) -> None:
            with suppress(GossipError):
                found.add(await self._transport.connect(address))

        with trio.move_on_after(_OTHERS_S):
            async with trio.open_nursery() as nursery:
                for address in self._addresses:
                    nursery.start_soon(connect, address)
        return found

    def _settle(self, challenge: Challenge) -> None:
        path = self._home.corpus_file(challenge.corpus.digest)
        small = path.stat().st_size <= LEDGER_BLOB_BYTES_MAX
        corpus = {challenge.corpus.digest: path.read_bytes()} if small else {}
        self._home.settle(challenge, self._blobs | corpus)


def _small_parts(challenge: Challenge) -> dict[str, str]:
    """Digest to what it is, of all but the corpus."""
    parts = {track.baseline: f"baseline of {name}" for name, track in challenge.tracks.items()}
    parts[challenge.constitution] = "constitution"
    if challenge.tokenizer != "bytes":
        parts[challenge.tokenizer.digest] = "tokenizer"
    return parts
