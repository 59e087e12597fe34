"""The cheap check of a gossip message, before anything is stored or forwarded. *Pure.*

A verdict has three values, after libp2p's validators (https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/
gossipsub-v1.1.md#extended-validators): *reject* only what no correct peer forwards, *ignore* what is sound but does not
belong here, *accept* the rest. Whether an entry fits its feed is the store's duty, because a gap is nobody's fault:
gossip loses and reorders. Whether a claim is true is policy's.
"""

from enum import Enum
from typing import NamedTuple

from gossip.limits import MESSAGE_BYTES_MAX
from ledger.envelope import Signed, open_envelope
from ledger.errors import BadStatement, TooNew
from ledger.statements import feed_kind


class Verdict(Enum):
    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class Screened(NamedTuple):
    """A verdict with its reason; `signed` exactly if accepted."""

    verdict: Verdict
    reason: str
    signed: Signed | None


def screen(message: bytes, challenge: str) -> Screened:
    """Judge the bytes of one message on the topic of `challenge` (digest, hex). Total: it never raises.

    1. The size is within bounds.
    2. It is an envelope that its author signed, with a statement of the right shape.
    3. The statement belongs to this challenge; a replay from another swarm is provably bad, its topic says so.
    4. Its feed travels by gossip: trials feeds are the bulk and go by sync only.
    """
    # 1
    if len(message) > MESSAGE_BYTES_MAX:
        return Screened(Verdict.REJECT, f"message of {len(message)} bytes, over {MESSAGE_BYTES_MAX}", None)
    # 2
    try:
        signed = open_envelope(message)
    except TooNew as error:
        return Screened(Verdict.IGNORE, str(error), None)
    except BadStatement as error:
        return Screened(Verdict.REJECT, str(error), None)
    # 3
    entry = signed.statement.entry
    if entry.challenge != challenge:
        return Screened(Verdict.REJECT, f"an entry of challenge {entry.challenge}", None)
    # 4
    if feed_kind(entry.feed) != "main":
        return Screened(Verdict.IGNORE, f"an entry of a {entry.feed} feed, which travels by sync", None)
    return Screened(Verdict.ACCEPT, "", signed)
