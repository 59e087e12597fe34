"""Every bound of this package, with its unit in the name and its reason. *Pure.*

A peer is a stranger: whatever it can make us hold, read, wait for or repeat has a limit here.
"""

from ledger.envelope import ENVELOPE_BYTES_MAX

KIB = 1024
MIB = 1024 * KIB

# Gossip
MESSAGE_BYTES_MAX = ENVELOPE_BYTES_MAX  # one message is one envelope
RPC_BYTES_MAX = 1 * MIB  # libp2p bundles messages; py-libp2p 0.8.1 silently drops larger frames at the far end
MESSAGES_PENDING_MAX = 512  # screened, not yet stored; what overflows is dropped and comes back by sync
PUBLISH_SPACING_S = 0.01  # Pubsub.publish does not yield, so a burst would overflow the 32-slot queue of each peer
DETAIL_CHARS_MAX = 500  # of an event: some quote a peer
SUBSCRIPTIONS_PER_PEER_MAX = 8  # a peer needs one

# Frames of the stream protocols
STATUS_BYTES_MAX = 8 * KIB
AGENT_CHARS_MAX = 64
ADDRESSES_MAX = 16  # of one peer
ADDRESS_CHARS_MAX = 256
HEADS_PER_REQUEST_MAX = 4096  # a larger ledger is compared window by window
REQUEST_BYTES_MAX = 512 * KIB  # 4096 heads of about 75 bytes, and room
PAGE_BYTES_MAX = (
    256 * KIB
)  # opening this many signatures takes about 0.1 s: the longest that a page keeps the loop busy
REPLY_BYTES_MAX = PAGE_BYTES_MAX + ENVELOPE_BYTES_MAX + 64 * KIB  # a page holds at least one entry, and msgpack frames

# Blobs
BLOB_BYTES_MAX = 64 * MIB  # the largest corpus for now; held in memory once
BLOB_CHUNK_BYTES = 64 * KIB  # Yamux's frame
BLOBS_PER_ROUND_MAX = 32  # then the ledger is compared again
BLOBS_MISSING_MAX = 1024  # looked at in one round
BLOBS_SERVED_AT_ONCE_MAX = 2  # each is wholly in memory while it is sent

# Time
READ_DEADLINE_S = 10.0  # silence on a stream; py-libp2p's own writer gives up on a paused reader after 5 s
WRITE_DEADLINE_S = 10.0  # for one chunk; then the connection is closed, because half a write corrupts it
REQUEST_DEADLINE_S = 30.0  # a whole status or sync exchange, from opening the stream
BLOB_DEADLINE_S = 600.0  # a whole blob: 64 MiB at 1 Mbit/s
OPEN_DEADLINE_S = 10.0  # opening a stream and agreeing on its protocol
DIAL_DEADLINE_S = 10.0
PING_INTERVAL_S = 10.0
PING_DEADLINE_S = 5.0
SYNC_INTERVAL_S = 5.0  # between comparisons of ledgers with one peer
SYNC_SPACING_S = 0.2  # at least, however many gaps a peer makes us notice
SYNC_PAGES_MAX = 1000  # in one round with one peer
FAULT_PAUSE_S = 60.0  # before asking a peer that broke the protocol, or is of another swarm, again
REDIAL_S_MIN = 1.0
REDIAL_S_MAX = 30.0

# Connections
CONNECTIONS_MAX = 96  # 8 tasks each
CONNECTIONS_PER_PEER_MAX = 2  # both sides may dial at once
STREAMS_MAX = 1024
STREAMS_SERVED_PER_PEER_MAX = 8  # requests of one peer that are answered at once
