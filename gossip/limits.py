"""Every bound of this package, with its unit in the name and its reason. *Pure.*

A peer is a stranger: whatever it can make us hold, read, wait for or repeat has a limit here.
"""

from gossip.rates import Rate
from ledger.envelope import ENVELOPE_BYTES_MAX

KIB = 1024
MIB = 1024 * KIB

# Gossip
MESSAGE_BYTES_MAX = ENVELOPE_BYTES_MAX  # one message is one envelope
RPC_BYTES_MAX = 1 * MIB  # libp2p bundles messages; py-libp2p 0.8.1 silently drops larger frames at the far end
MESSAGES_PENDING_MAX = 512  # screened, not yet stored; what overflows is dropped and comes back by sync
MESSAGES_STORED_AT_ONCE_MAX = 64  # in one transaction, of those: at most 10 ms of work beside the disk's
FORWARDING_TURNS = 8  # of the event loop before that: so many tasks pass a message on, one after the other
PUBLISH_SPACING_S = 0.01  # Pubsub.publish does not yield, so a burst would overflow the 32-slot queue of each peer
DETAIL_CHARS_MAX = 500  # of an event: some quote a peer
SUBSCRIPTIONS_PER_PEER_MAX = 8  # a peer needs one
TOPIC_CHARS_MAX = 256  # ours have 75; beyond, a subscription is passed over
SUBSCRIPTION_CHANGES = Rate(per_s=1, burst=32)  # of one peer: each makes us send recent messages; beyond, a fault
GOSSIP_MESSAGES = Rate(per_s=100, burst=1000)  # of one peer, duplicates too: 0.3 ms each; beyond, dropped unread
GOSSIP_BYTES = Rate(per_s=1 * MIB, burst=8 * MIB)  # likewise; sync brings what was sound
RPCS = Rate(per_s=50, burst=200)  # of one peer; beyond, read later: the peer's own window makes it wait
RPC_DEADLINE_S = 30.0  # from an RPC's first byte to its last; beyond, the stream is reset
RPC_STREAMS_PER_PEER_MAX = 2  # both may dial at once; each holds an RPC; beyond, the stream is reset
CONTROL_ENTRIES_MAX = 16  # of one kind (IHAVE, GRAFT …) in an RPC; beyond, the rest is passed over
CONTROL_IDS_MAX = 256  # of messages, in the IHAVEs or the IWANTs of an RPC; beyond, the rest is passed over
MESSAGE_ID_BYTES_MAX = 64  # 38 of a peer id, 8 of a number; longer ones are passed over
WANTED_BYTES_MAX = 1 * MIB  # sent to a peer for one RPC's IWANTs, and only while less than that waits for it
PRUNE_BACKOFF_S_MAX = 60  # a peer could ask never to be grafted again; its wish counts for this long
MESSAGE_OVERHEAD_BYTES_MAX = 1 * KIB  # of libp2p around an envelope: ids, topic, signature; beyond, a fault
MESSAGE_CACHE_BYTES_MAX = 16 * MIB  # kept to answer IWANT; beyond, a message is forwarded and not kept
MESSAGES_REMEMBERED_MAX = 4096  # digests: a message wrapped anew is neither verified nor forwarded again
AUTHOR_ENTRIES = Rate(per_s=1, burst=60)  # of one author by gossip; beyond, ignored: sync brings them at its own pace
AUTHOR_BYTES = Rate(per_s=64 * KIB, burst=1 * MIB)  # likewise
AUTHORS_REMEMBERED_MAX = 4096  # buckets; who floods under more names than this is held by the rates of its peers

# Frames of the stream protocols
STATUS_BYTES_MAX = 8 * KIB
AGENT_CHARS_MAX = 64
ADDRESSES_MAX = 16  # of one peer
ADDRESS_CHARS_MAX = 256
REQUEST_BYTES_MAX = 512 * KIB  # 2048 heads of about 140 bytes, 1024 ranges of up to 150, and room
PAGE_BYTES_MAX = (
    256 * KIB
)  # opening this many signatures takes about 0.1 s: the longest that a page keeps the loop busy
REPLY_BYTES_MAX = PAGE_BYTES_MAX + ENVELOPE_BYTES_MAX + 64 * KIB  # a page holds at least one entry, and msgpack frames

# Comparing ledgers
SYNC_PARTS = 16  # of a range that differs; more would mean fewer round trips and more digests that say nothing
SYNC_SMALL_ITEMS = 4  # in a range whose heads are told one by one: a head weighs as much as three digests
SYNC_RANGES_MAX = 1024  # in one question; an answer reads each item once, however many ranges
SYNC_POSITIONS_MAX = 2048  # heads and bans told in one question
SYNC_EMPTY_PAGES_MAX = 8  # in a row; then this peer has nothing, whatever it says
SYNC_FRUITLESS_BYTES_PER_S = 48 * KIB  # asked at most of a peer with which nothing comes of it; then it is left alone
SYNC_FRUITLESS_PAUSE_S_MAX = 60.0
SYNC_TURN_S = 2.0  # that a request for a page waits for those of other peers: they would bring the same entries

# Blobs
BLOB_BYTES_MAX = 64 * MIB  # that is held in memory: programs, tokenizers
BLOB_FILE_BYTES_MAX = 8 * 1024 * MIB  # that goes to a file: corpora; 11 minutes at 100 Mbit/s
BLOB_CHUNK_BYTES = 64 * KIB - 12  # with its header, the largest frame of Yamux
BLOB_BLOCK_BYTES = 1 * MIB  # read from or written to a file at once: few hops between threads, little memory
BLOB_RANGE_BYTES = 4 * MIB  # asked of one of several peers at once: a round trip is little beside it
BLOB_AHEAD_BYTES_MAX = 16 * MIB  # beyond what is here, where ranges may begin: so much and a range wait in memory
BLOB_PEERS_MAX = 4  # asked for ranges of one blob at once
BLOBS_PER_ROUND_MAX = 32  # then the ledger is compared again
BLOBS_MISSING_MAX = 1024  # looked at in one round
BLOBS_SERVED_AT_ONCE_MAX = 2  # each is wholly in memory while it is sent
BLOB_FILES_SERVED_AT_ONCE_MAX = 16  # a block of each is in memory

# Addresses of peers
RECORD_BYTES_MAX = 2 * KIB  # 16 addresses of about 50 characters, a peer id and a signature
RECORDS_PER_REPLY_MAX = 64
PEERS_REPLY_BYTES_MAX = RECORDS_PER_REPLY_MAX * (RECORD_BYTES_MAX + 8) + KIB
PEERS_REACHED_MAX = 256  # remembered; beyond, who was reached longest ago is forgotten
PEERS_HEARD_MAX = 1024  # known by hearsay; beyond, no more are believed until dialling has sorted some out
PEERS_PER_SOURCE_MAX = 64  # heard of from one peer: it cannot fill the book alone
PEERS_PER_NETWORK_MAX = 32  # heard of in one /16 (IPv4) or /32 (IPv6): whoever owns a network owns no swarm
PEERS_PER_LOCAL_NETWORK_MAX = 256  # in all private networks together, which cannot be told apart
PEERS_WANTED = 8  # connections that a node looks for by itself: gossip's mesh has six
PEER_ADDRESSES_TRIED_MAX = 4  # of one peer in one attempt
PEER_FAILURES_MAX = 8  # dials in a row after which a peer known by hearsay is forgotten
PEERS_INTERVAL_S = 60.0  # between asking one peer for addresses
PEERS_ROUND_S = 1.0  # between looks at rules and connections
PEER_RETRY_S_MAX = 600.0  # between dials of one peer that fail, while others are connected
RULES_MAX = 4096  # bans and permissions, all of them the owner's

# Time
READ_DEADLINE_S = 10.0  # silence on a stream; py-libp2p's own writer gives up on a paused reader after 5 s
WRITE_DEADLINE_S = 10.0  # for one chunk; then the connection is closed, because half a write corrupts it
REQUEST_DEADLINE_S = 30.0  # a whole status or sync exchange, from opening the stream
BLOB_DEADLINE_S = 600.0  # a whole blob in memory: 64 MiB at 1 Mbit/s
BLOB_BLOCK_DEADLINE_S = 30.0  # a block of one that goes to a file: slower than 35 kB/s is given up
OPEN_DEADLINE_S = 10.0  # opening a stream and agreeing on its protocol
DIAL_DEADLINE_S = 10.0
RESOLVE_DEADLINE_S = 5.0  # a DNS name
MDNS_ANSWER_DEADLINE_S = 3  # of one who announced itself on the local network
PING_INTERVAL_S = 10.0
PING_DEADLINE_S = 5.0
PINGS_MISSED_MAX = 2  # in a row; then the connection's socket is closed: a busy peer may miss one
IDLE_DEADLINE_S = 20.0  # for a peer's first stream; then the connection is closed
SYNC_INTERVAL_S = 5.0  # between comparisons of ledgers with one peer
SYNC_SPACING_S = 0.2  # at least, however many gaps a peer makes us notice
SYNC_QUESTIONS_MAX = 1000  # in one round with one peer
FAULT_PAUSE_S = 60.0  # before asking a peer that broke the protocol, or is of another swarm, again
REDIAL_S_MIN = 1.0
REDIAL_S_MAX = 30.0

# Connections
CONNECTIONS_MAX = 96  # 8 tasks each
CONNECTIONS_INBOUND_MAX = 64  # the rest is for those that we open: whoever fills ours cannot cut us off
CONNECTIONS_PER_PEER_MAX = 2  # both sides may dial at once; beyond, the oldest is closed: it may be dead
CONNECTIONS_PER_ADDRESS_MAX = 16  # inbound, from one IPv4 address or IPv6 /64; beyond, see admission.py
CONNECTIONS_PER_LOCAL_ADDRESS_MAX = 56  # from this machine, where a demo runs many nodes
HANDSHAKES_PER_ADDRESS_MAX = 16  # under way at once; beyond, the oldest is closed
ARRIVALS = Rate(per_s=1, burst=64)  # of connections from one address: a handshake takes 5 ms; beyond, closed at once
LOCAL_ARRIVALS = Rate(per_s=50, burst=200)  # from this machine
NETWORK_SURPLUS_MIN = (
    2  # connections more of one /16 or /32 than of the newcomer's: then one makes way, see admission.py
)
PROBATION_S = 1.0  # in which a peer can prove useful before its connection makes way for a newer one
ADDRESSES_REMEMBERED_MAX = 4096
PEERS_JUDGED_MAX = 4096

# Conduct
FAULTS = Rate(per_s=0.1, burst=50)  # provable ones of one peer, 0.3 ms of checking each; beyond, it is disconnected
STRIKES = Rate(per_s=1 / 600, burst=1)  # such disconnections; beyond, it is refused
REFUSAL_S = 300.0

# Streams
STREAMS_PER_CONNECTION_MAX = 64  # opened by the peer and not ended; beyond, the connection is closed
STREAMS_OPENED = Rate(per_s=100, burst=400)  # on one connection, 1 ms each; beyond, the connection is read later
STREAMS_SERVED_PER_PEER_MAX = 8  # requests of one peer that are answered at once; beyond, the stream is reset
REQUESTS = Rate(per_s=100, burst=400)  # of one peer; beyond, answered later
READS = Rate(per_s=2000, burst=8000)  # of Yamux frames, two each: 64 MB/s of full ones; beyond, read later
WINDOW_BYTES_MAX = 512 * KIB  # that a peer may send ahead on one stream
BUFFERED_BYTES_MAX = 4 * MIB  # unread on one connection: eight full windows; beyond, the connection is closed
BUFFERED_BYTES_ALL_MAX = 64 * MIB  # unread on all together; beyond, one that has more than a window unread is closed
PROTOCOL_NAME_BYTES_MAX = 1 * KIB  # in stream negotiation; beyond, the stream or connection is closed

# Our own running
REBUILDS = Rate(per_s=0.1, burst=6)  # of a libp2p host that failed; beyond, the node ends and says why
REBUILD_PAUSE_S = 0.5  # before the first; doubles with each that fails at once
TOLD = Rate(per_s=0.1, burst=20)  # events of one kind about one peer's faults; beyond, counted and not told
TOLD_REMEMBERED_MAX = 4096
