"""What can go wrong between peers, by whose fault it is.

GossipError
├── PeerFault             the other side broke the protocol; the message says how
│   └── OtherSwarm        it is sound, but works on another challenge
│       └── OtherVersion  it speaks a version of the protocol that this node does not
├── MixedBlob             bytes from several peers that are not what was asked for; one of them is at fault
├── NotThere              the other side does not have what was asked for; nobody's fault
├── StreamBroken          the environment's failure: connection lost, reset, or a deadline passed
├── DialFailed            no connection to an address: wrong, unreachable, or another peer answered
├── BadAddress            ours: an address that cannot be used; the message shows a good one
├── PortInUse             ours: the port to listen on is taken; the message says what to do
├── HostFailed            the network failed again and again although it was rebuilt
└── UnsupportedLibp2p     ours: another libp2p is installed than the one that is contained here
"""


class GossipError(Exception):
    """Base of everything that this package raises on purpose."""


class PeerFault(GossipError):
    """A message that no correct peer sends."""


class OtherSwarm(PeerFault):
    """A correct peer of another challenge."""


class OtherVersion(OtherSwarm):
    """A correct peer whose protocol version is too far from ours."""


class MixedBlob(GossipError):
    """A blob that came from several peers has another digest; which of them lied cannot be told."""


class NotThere(GossipError):
    """The asked peer does not have it; another may."""


class StreamBroken(GossipError):
    """A stream or its connection ended before the exchange did."""


class DialFailed(GossipError):
    """No connection came about."""


class BadAddress(GossipError):
    """Not an address that a node can listen on or dial."""


class PortInUse(GossipError):
    """Another process listens on the port."""


class HostFailed(GossipError):
    """libp2p's host ended more often than it may."""


class UnsupportedLibp2p(GossipError):
    """The installed libp2p is not the pinned version."""
