"""A peer that speaks TCP, Noise, Yamux and GossipSub by hand, so that it can break every one of their rules."""

import struct
from collections import defaultdict
from contextlib import suppress

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.utils.varint import encode_delim, encode_varint_prefixed

from gossip.addresses import parse_peer

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
MESHSUB = "/meshsub/1.1.0"

# What the other side's closing of the connection looks like from here.
GONE = (BaseLibp2pError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


async def tcp(address: str, source: str = "127.0.0.1") -> trio.SocketStream:
    """A TCP connection to a node's address, from another address of this machine's if wanted (127.0.0.0/8)."""
    endpoint, _ = parse_peer(address)
    socket = trio.socket.socket()
    await socket.bind((source, 0))
    await socket.connect((endpoint.host, endpoint.port))
    return trio.SocketStream(socket)


class RawPeer:
    """An authenticated connection with Yamux agreed on; frames are up to the test."""

    def __init__(self, conn: ISecureConn, key: Ed25519PrivateKey, stream: trio.SocketStream) -> None:
        self.conn, self.key, self._stream = conn, key, stream
        self.pair = create_new_key_pair(key.private_bytes_raw())
        self.peer = ID.from_pubkey(self.pair.public_key)
        self.id = self.peer.to_base58()
        self.received = self.received_bytes = 0  # frames, and the data in them
        self.closed = trio.Event()
        self._sending = trio.Lock()
        self._windows: defaultdict[int, int] = defaultdict(lambda: 256 * 1024)  # by stream; what may be sent
        self._updated = trio.Event()

    async def frame(self, kind: int, flags: int, stream: int, data: bytes = b"", *, length: int | None = None) -> None:
        """Send a frame; `length` is what its header claims, or the field's other meaning."""
        header = struct.pack("!BBHII", 0, kind, flags, stream, len(data) if length is None else length)
        async with self._sending:
            await self.conn.write(header + data)

    async def frames(self, data: bytes) -> None:
        """Send bytes that are frames, or are not."""
        async with self._sending:
            await self.conn.write(data)

    async def frames_while_open(self, data: bytes) -> None:
        with suppress(*GONE):
            await self.frames(data)

    async def open(self, stream: int, protocol: str, data: bytes = b"") -> None:
        """Open a stream and ask for a protocol, without waiting for consent."""
        lines = encode_delim(b"/multistream/1.0.0") + encode_delim(protocol.encode())
        await self.frame(DATA, SYN, stream, lines + data)

    async def rpc(self, stream: int, rpc: rpc_pb2.RPC) -> None:
        """Send an RPC on an open pubsub stream; see `data`."""
        await self.data(stream, encode_varint_prefixed(rpc.SerializeToString()))

    async def data(self, stream: int, data: bytes) -> None:
        """Send data as the stream's window allows. Raises one of `GONE` if the connection is closed meanwhile."""
        for start in range(0, len(data), 1 << 16):
            part = data[start : start + (1 << 16)]
            while self._windows[stream] < len(part):
                if self.closed.is_set():
                    raise trio.BrokenResourceError
                await self._updated.wait()
            self._windows[stream] -= len(part)
            await self.frame(DATA, 0, stream, part)

    def message(self, topic: str, data: bytes, number: int, *, signature: bytes | None = None) -> rpc_pb2.Message:
        """A message as this peer would publish it, with its libp2p signature unless another is given."""
        seqno = number.to_bytes(8, "big")
        message = rpc_pb2.Message(data=data, topicIDs=[topic], from_id=self.peer.to_bytes(), seqno=seqno)
        payload = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        message.signature = self.pair.private_key.sign(payload) if signature is None else signature
        message.key = self.pair.public_key.serialize()
        return message

    async def listen(self) -> None:
        """Read and answer pings until the other side closes, as it may wait for either."""
        try:
            while True:
                header = await self.conn.read(12)
                if len(header) < 12:
                    break
                _, kind, flags, stream, length = struct.unpack("!BBHII", header)
                self.received += 1
                if kind == WINDOW_UPDATE:
                    self._windows[stream] += length
                    self._update()
                if kind == DATA and length:
                    self.received_bytes += len(await self.conn.read(length))
                    await self._reply(WINDOW_UPDATE, 0, stream, length)
                elif kind == PING and flags & SYN:
                    await self._reply(PING, ACK, 0, length)
        except GONE:
            pass
        finally:
            self.closed.set()
            self._update()
            await self.close()

    async def _reply(self, kind: int, flags: int, stream: int, length: int) -> None:
        if not self._sending.locked():  # else a flood is under way, and reading on matters more
            await self.frame(kind, flags, stream, length=length)

    def _update(self) -> None:
        self._updated.set()
        self._updated = trio.Event()

    async def hold(self) -> None:
        """Keep the connection, and read nothing."""
        try:
            await trio.sleep_forever()
        finally:
            await self.close()

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)


async def raw_peer(
    nursery: trio.Nursery,
    address: str,
    key: Ed25519PrivateKey | None = None,
    *,
    source: str = "127.0.0.1",
    listening: bool = True,
) -> RawPeer:
    """Connect to a node as a peer with this key, or a fresh one; the connection is closed with the nursery.

    One that is not `listening` never reads a byte after the handshake. Raises one of `GONE` if it is not let in.
    """
    key = key or Ed25519PrivateKey.generate()
    pair = create_new_key_pair(key.private_bytes_raw())
    stream = await tcp(address, source)
    try:
        raw = RawConnection(TrioTCPStream(stream), True)
        noise = Noise(pair, noise_privkey=create_noise_key_pair().private_key)
        conn = await SecurityMultistream({NOISE: noise}).secure_outbound(raw, ID.from_string(parse_peer(address)[1]))
        await MultiselectClient().select_one_of([TProtocol("/yamux/1.0.0")], MultiselectCommunicator(conn), 10)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    peer = RawPeer(conn, key, stream)
    nursery.start_soon(peer.listen if listening else peer.hold)
    return peer
