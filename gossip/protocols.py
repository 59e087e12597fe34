"""Both sides of the status and sync protocols: answering peers, and asking one peer. The messages are in wire.py.

Two versions of the protocol work together if they are equal or neighbours: what differs between neighbours has to stand
in the protocol ids of the streams.

Asking needs no ledger, so a joiner that knows nothing but an address can find out what a swarm works on and fetch it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import trio

from gossip import exchange, limits
from gossip.addresses import of_peer
from gossip.errors import OtherSwarm, OtherVersion, StreamBroken
from gossip.holdings import Holdings
from gossip.transport import Stream, Transport
from gossip.wire import (
    PROTOCOL,
    STATUS,
    SYNC,
    Status,
    SyncReply,
    SyncRequest,
    encode,
    receive,
)

TOPIC_VERSION = 1  # of the form of its messages


def topic_of(challenge: str) -> str:
    return f"/waggle/{TOPIC_VERSION}/{challenge}"


@contextmanager
def within(deadline_s: float) -> Iterator[None]:
    """Raise `StreamBroken` if the block takes longer."""
    try:
        with trio.fail_after(deadline_s):
            yield
    except trio.TooSlowError as error:
        raise StreamBroken(f"not finished in {deadline_s} s") from error


def own_status(transport: Transport, challenge: str | None, agent: str, constitution: str | None = None) -> Status:
    addresses = tuple(a for a in transport.addresses() if len(a) <= limits.ADDRESS_CHARS_MAX)
    agent = agent[: limits.AGENT_CHARS_MAX]
    return Status(PROTOCOL, challenge, agent, addresses[: limits.ADDRESSES_MAX], constitution)


async def fetch_status(transport: Transport, peer: str, *, mine: Status | None = None) -> Status:
    """Tell a connected peer who we are (nobody in particular by default), and learn who it is.

    Of the addresses that it announces only those that lead to itself are returned. Raises `OtherVersion` if it speaks
    one that is not ours or next to it, `PeerFault`, `StreamBroken`. Comparing challenges is the caller's duty.
    """
    with within(limits.REQUEST_DEADLINE_S):
        async with transport.open(peer, STATUS) as stream:
            await stream.write(encode(mine or own_status(transport, None, "joiner")))
            await stream.finish()
            status = await receive(stream, Status, limits.STATUS_BYTES_MAX)
    if abs(status.protocol - PROTOCOL) > 1:
        whose = "this node's" if status.protocol > PROTOCOL else "its"
        raise OtherVersion(f"speaks protocol {status.protocol}, this node {PROTOCOL}: update {whose} Waggle")
    return msgspec.structs.replace(status, addresses=of_peer(status.addresses, peer))


def no_constitution() -> None:
    """For nodes that do not say what is in force with them."""


class Responder:
    """Answers status and sync requests from a ledger."""

    def __init__(
        self,
        transport: Transport,
        holdings: Holdings,
        challenge: str,
        agent: str,
        constitution: Callable[[], str | None] = no_constitution,
    ) -> None:
        """`constitution` gives the digest of the one in force here now."""
        self._transport, self._holdings, self._challenge, self._agent = transport, holdings, challenge, agent
        self._constitution = constitution

    def serve(self) -> None:
        self._transport.handle(STATUS, self._answer_status)
        self._transport.handle(SYNC, self._answer_sync)

    def status(self) -> Status:
        return own_status(self._transport, self._challenge, self._agent, self._constitution())

    async def _answer_status(self, stream: Stream) -> None:
        with within(limits.REQUEST_DEADLINE_S):
            await receive(stream, Status, limits.STATUS_BYTES_MAX)
            await stream.write(encode(self.status()))
            await stream.finish()

    async def _answer_sync(self, stream: Stream) -> None:
        with within(limits.REQUEST_DEADLINE_S):
            request = await receive(stream, SyncRequest, limits.REQUEST_BYTES_MAX)
            if request.challenge != self._challenge:
                raise OtherSwarm(f"asked for entries of challenge {request.challenge}")
            await stream.write(encode(SyncReply(self._answer(request.question))))
            await stream.finish()

    def _answer(self, question: exchange.Question) -> exchange.Answer:
        ours, summary = self._holdings, self._holdings.summary()
        if isinstance(question, exchange.Compare):
            return exchange.compare(summary, question)
        return exchange.next_page(summary, question, ours.envelopes, ours.proof, limits.PAGE_BYTES_MAX)
