"""Blobs between real nodes on loopback: into files, in parts, from several peers, and from liars."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import trio
import zstandard
from loopback import CHALLENGE, Node

from gossip import limits
from gossip.blobs import BlobServer, Download, fetch_blob, part_of
from gossip.errors import MixedBlob, NotThere, PeerFault, StreamBroken
from gossip.events import Event, Kind
from gossip.mesh import Mesh
from gossip.transport import Stream
from gossip.wire import BLOB, BlobReply, BlobRequest, encode, receive

MakeNode = Callable[..., Node]
MIB = 2**20
CORPUS = bytes(range(256)) * (12 * MIB // 256)
DIGEST = hashlib.sha256(CORPUS).hexdigest()


def find_in(folder: Path) -> Callable[[str], Path | None]:
    return lambda digest: folder / digest if (folder / digest).is_file() else None


async def serving_file(node: Node, folder: Path, data: bytes = CORPUS) -> None:
    """Make `node` serve `data` from a file."""
    folder.mkdir()
    (folder / hashlib.sha256(data).hexdigest()).write_bytes(data)
    BlobServer(node.transport, node.store.blobs, find_in(folder)).serve()


def sending(node: Node, data: bytes, *, size: int = len(CORPUS), upto: int = len(CORPUS)) -> list[int]:
    """Make `node` answer every request with a claim of `size` bytes and `data` from the asked offset up to `upto`.

    The list collects the offsets that were asked for.
    """
    asked: list[int] = []

    async def answer(stream: Stream) -> None:
        request = await receive(stream, BlobRequest, 1000)
        asked.append(request.offset)
        end = min(upto, request.offset + (size if request.length is None else request.length))
        await stream.write(encode(BlobReply(size)))
        await stream.write(data[request.offset : end])
        await stream.finish()

    node.transport.handle(BLOB, answer)
    return asked


async def connected(make_node: MakeNode, others: int) -> list[Node]:
    """A node, and `others` that it is connected to."""
    nodes = [await make_node().start(mesh=False) for _ in range(1 + others)]
    for other in nodes[1:]:
        await nodes[0].transport.connect(other.address)
    return nodes


async def test_a_file_is_served_and_fetched_with_progress(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, founder = await connected(make_node, 1)
    await serving_file(founder, tmp_path / "corpora")
    seen: list[tuple[int, int]] = []
    path = tmp_path / "new" / DIGEST
    await Download(path, DIGEST, len(CORPUS), lambda *now: seen.append(now)).from_peer(joiner.transport, founder.id)
    assert path.read_bytes() == CORPUS
    assert not part_of(path).exists()
    assert [total for _, total in seen] == [len(CORPUS)] * 12
    assert seen == sorted(seen)
    assert await fetch_blob(joiner.transport, founder.id, DIGEST, len(CORPUS)) == CORPUS
    assert await fetch_blob(joiner.transport, founder.id, founder.store.blobs.put(b"program"), 100) == b"program"


async def test_a_download_goes_on_where_the_connection_broke_from_another_peer(
    make_node: MakeNode, tmp_path: Path
) -> None:
    joiner, first, second = await connected(make_node, 2)
    sending(first, CORPUS, upto=5 * MIB + 1000)
    asked = sending(second, CORPUS)
    download = Download(tmp_path / DIGEST, DIGEST, len(CORPUS))
    with pytest.raises(StreamBroken, match="ended after 1000"):
        await download.from_peer(joiner.transport, first.id)
    assert part_of(tmp_path / DIGEST).read_bytes() == CORPUS[: 5 * MIB]
    await download.from_peer(joiner.transport, second.id)
    assert asked == [5 * MIB]
    assert (tmp_path / DIGEST).read_bytes() == CORPUS


async def test_a_restarted_node_goes_on_with_what_it_had(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, founder = await connected(make_node, 1)
    part_of(tmp_path / DIGEST).write_bytes(CORPUS[: 7 * MIB])
    asked = sending(founder, CORPUS)
    await Download(tmp_path / DIGEST, DIGEST, len(CORPUS)).from_peer(joiner.transport, founder.id)
    assert asked == [7 * MIB]
    assert (tmp_path / DIGEST).read_bytes() == CORPUS
    part_of(tmp_path / "other").write_bytes(CORPUS)  # killed between the last byte and the renaming
    await Download(tmp_path / "other", DIGEST, len(CORPUS)).from_peer(joiner.transport, founder.id)
    assert asked == [7 * MIB]


async def test_a_peer_that_sent_all_of_the_wrong_bytes_is_the_liar(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, liar, honest = await connected(make_node, 2)
    sending(liar, b"x" * len(CORPUS))
    sending(honest, CORPUS)
    download = Download(tmp_path / DIGEST, DIGEST, len(CORPUS))
    with pytest.raises(PeerFault, match="other bytes"):
        await download.from_peer(joiner.transport, liar.id)
    assert list(tmp_path.glob("*.part")) == []
    await download.from_peer(joiner.transport, honest.id)
    assert (tmp_path / DIGEST).read_bytes() == CORPUS


async def test_wrong_bytes_among_those_of_several_are_found_out_by_taking_all_from_one(
    make_node: MakeNode, tmp_path: Path
) -> None:
    joiner, liar, honest = await connected(make_node, 2)
    lies = sending(liar, b"x" * len(CORPUS), upto=3 * MIB)
    truths = sending(honest, CORPUS)
    download = Download(tmp_path / DIGEST, DIGEST, len(CORPUS))
    with pytest.raises(StreamBroken):
        await download.from_peer(joiner.transport, liar.id)
    with pytest.raises(MixedBlob, match=liar.id):
        await download.from_peer(joiner.transport, honest.id)
    with pytest.raises(StreamBroken):  # the same again; its bytes are not mixed with others' any more
        await download.from_peer(joiner.transport, liar.id)
    await download.from_peer(joiner.transport, honest.id)
    assert (lies, truths) == ([0, 0], [3 * MIB, 0])
    assert (tmp_path / DIGEST).read_bytes() == CORPUS


async def test_a_peer_that_claims_less_than_is_here_already_is_not_believed(
    make_node: MakeNode, tmp_path: Path
) -> None:
    joiner, honest, liar = await connected(make_node, 2)
    sending(honest, CORPUS, upto=3 * MIB)
    sending(liar, CORPUS, size=10, upto=10)
    download = Download(tmp_path / DIGEST, DIGEST, len(CORPUS))
    with pytest.raises(StreamBroken):
        await download.from_peer(joiner.transport, honest.id)
    with pytest.raises(MixedBlob, match=liar.id):
        await download.from_peer(joiner.transport, liar.id)
    with pytest.raises(PeerFault):
        await download.from_peer(joiner.transport, liar.id)
    sending(honest, CORPUS)
    await download.from_peer(joiner.transport, honest.id)


async def test_more_than_the_cap_is_refused_before_a_byte_is_stored(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, liar = await connected(make_node, 1)
    sending(liar, CORPUS, size=2**50)
    with pytest.raises(PeerFault, match=f"{2**50} bytes, over {len(CORPUS)}"):
        await Download(tmp_path / DIGEST, DIGEST, len(CORPUS)).from_peer(joiner.transport, liar.id)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.part")) == 0


async def test_a_peer_without_the_blob_leaves_what_is_here(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, other = await connected(make_node, 1)
    BlobServer(other.transport, other.store.blobs, find_in(tmp_path)).serve()
    part_of(tmp_path / DIGEST).write_bytes(CORPUS[:MIB])
    with pytest.raises(NotThere):
        await Download(tmp_path / DIGEST, DIGEST, len(CORPUS)).from_peer(joiner.transport, other.id)
    assert part_of(tmp_path / DIGEST).read_bytes() == CORPUS[:MIB]


async def test_an_offset_past_the_end_gets_an_empty_answer(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, founder = await connected(make_node, 1)
    await serving_file(founder, tmp_path / "corpora", b"small")
    small = hashlib.sha256(b"small").hexdigest()
    for digest in (small, founder.store.blobs.put(b"other")):
        for offset in (5, 2**53 - 1):
            async with joiner.transport.open(founder.id, BLOB) as stream:
                await stream.write(encode(BlobRequest(digest, offset)))
                await stream.finish()
                assert (await receive(stream, BlobReply, 100)).size == 5
                assert await stream.read(100) == b""


async def test_a_large_file_passes_in_bounded_memory(make_node: MakeNode, tmp_path: Path) -> None:
    """Both sides of a 200 MiB blob run in this process; each holds a few blocks at a time."""
    joiner, founder = await connected(make_node, 1)
    folder = tmp_path / "corpora"
    folder.mkdir()
    block, total = bytes(range(256)) * (MIB // 256), hashlib.sha256()
    with (folder / "unnamed").open("wb") as file:
        for _ in range(200):
            file.write(block)
            total.update(block)
    digest = total.hexdigest()
    (folder / "unnamed").rename(folder / digest)
    BlobServer(founder.transport, founder.store.blobs, find_in(folder)).serve()
    process, peak, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        await Download(tmp_path / digest, digest, 200 * MIB).from_peer(joiner.transport, founder.id)
    finally:
        done.set()
        watcher.join()
    assert (tmp_path / digest).stat().st_size == 200 * MIB
    assert 0 < peak[0] - before < 40 * MIB


async def test_slow_readers_of_files_leave_room_for_programs(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, founder = await connected(make_node, 1)
    await serving_file(founder, tmp_path / "corpora")
    program = founder.store.blobs.put(b"program")
    async with trio.open_nursery() as nursery:

        async def read_nothing(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with joiner.transport.open(founder.id, BLOB) as stream:
                await stream.write(encode(BlobRequest(DIGEST)))
                await receive(stream, BlobReply, 100)
                task_status.started()
                await trio.sleep_forever()

        for _ in range(limits.BLOBS_SERVED_AT_ONCE_MAX + 1):
            await nursery.start(read_nothing)
        with trio.fail_after(5):
            assert await fetch_blob(joiner.transport, founder.id, program, 100) == b"program"
        nursery.cancel_scope.cancel()


async def test_a_mesh_serves_files_that_the_home_knows(make_node: MakeNode, tmp_path: Path) -> None:
    founder, joiner = make_node(), await make_node().start(mesh=False)
    await founder.start(mesh=False)
    (tmp_path / DIGEST).write_bytes(CORPUS)
    mesh = Mesh(
        founder.transport, founder.store, CHALLENGE, founder.watch.observe, founder.watch.on_new,
        find=find_in(tmp_path),
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await joiner.transport.connect(founder.address)
        assert await fetch_blob(joiner.transport, founder.id, DIGEST, len(CORPUS)) == CORPUS
        nursery.cancel_scope.cancel()


async def test_ranges_come_from_two_peers_at_once(
    make_node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BLOB_RANGE_BYTES", 2 * MIB)
    joiner, first, second = await connected(make_node, 2)
    one, other = sending(first, CORPUS), sending(second, CORPUS)
    seen: list[int] = []
    path = tmp_path / DIGEST
    download = Download(path, DIGEST, len(CORPUS), lambda done, total: seen.append(done))
    await download.from_peers(joiner.transport, [first.id, second.id])
    assert path.read_bytes() == CORPUS
    assert one
    assert other
    assert set(one + other) >= {n * 2 * MIB for n in range(6)}
    assert seen == [n * MIB for n in range(1, 13)]


async def test_the_others_go_on_where_one_of_several_fails(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, without, breaking, honest = await connected(make_node, 3)
    BlobServer(without.transport, without.store.blobs, find_in(tmp_path)).serve()
    sending(breaking, CORPUS, upto=5 * MIB + 1000)
    sending(honest, CORPUS)
    download = Download(tmp_path / "new" / DIGEST, DIGEST, len(CORPUS))
    told: list[tuple[str, type]] = []
    await download.from_peers(
        joiner.transport, [without.id, breaking.id, honest.id], lambda peer, error: told.append((peer, type(error)))
    )
    assert (tmp_path / "new" / DIGEST).read_bytes() == CORPUS
    assert (without.id, NotThere) in told
    assert honest.id not in [peer for peer, _ in told]


async def test_what_all_have_failed_to_send_is_gone_on_with(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, one, other = await connected(make_node, 2)
    for node in (one, other):
        sending(node, CORPUS, upto=9 * MIB + 1000)
    download = Download(tmp_path / DIGEST, DIGEST, len(CORPUS))
    with pytest.raises(StreamBroken):
        await download.from_peers(joiner.transport, [one.id, other.id])
    assert part_of(tmp_path / DIGEST).read_bytes() == CORPUS[: 9 * MIB]
    asked = sending(one, CORPUS)
    await download.from_peers(joiner.transport, [one.id])
    assert asked == [9 * MIB]


@pytest.mark.parametrize("size", [len(CORPUS), len(CORPUS) - 1])
async def test_a_liar_among_several_costs_one_more_download(make_node: MakeNode, tmp_path: Path, size: int) -> None:
    joiner, liar, honest = await connected(make_node, 2)
    sending(liar, b"x" * len(CORPUS), size=size)
    sending(honest, CORPUS)
    download = Download(tmp_path / DIGEST, DIGEST, len(CORPUS))
    with pytest.raises(MixedBlob, match="one peer at a time"):
        await download.from_peers(joiner.transport, [liar.id, honest.id])
    told: list[tuple[str, type]] = []  # the liar's alone are wrong as well
    await download.from_peers(
        joiner.transport, [liar.id, honest.id], lambda peer, error: told.append((peer, type(error)))
    )
    assert told == [(liar.id, PeerFault)]
    assert (tmp_path / DIGEST).read_bytes() == CORPUS


async def test_a_spoilt_blob_is_not_here_and_the_owner_hears_of_it(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, founder = await make_node().start(mesh=False), await make_node().start()
    await joiner.transport.connect(founder.address)
    spoilt, sound = founder.store.blobs.put(b"spoilt program"), founder.store.blobs.put(b"sound program")
    for data in (b"no zstandard frame", zstandard.compress(b"other program")):
        founder.store.db.execute("UPDATE blobs SET data = ? WHERE digest = ?", (data, spoilt))
        with pytest.raises(NotThere):
            await fetch_blob(joiner.transport, founder.id, spoilt, 100)
        assert await fetch_blob(joiner.transport, founder.id, sound, 100) == b"sound program"
    events = founder.watch.of(Kind.BLOB_DAMAGED, joiner.id)
    assert len(events) == 2
    assert all("waggle ledger fsck" in event.detail for event in events)
    assert not founder.watch.of(Kind.HANDLER_FAILED)


async def test_a_file_that_cannot_be_read_is_not_here(make_node: MakeNode, tmp_path: Path) -> None:
    joiner, founder = await connected(make_node, 1)
    heard: list[Event] = []
    BlobServer(founder.transport, founder.store.blobs, lambda digest: tmp_path, heard.append).serve()  # a folder
    with pytest.raises(NotThere):
        await fetch_blob(joiner.transport, founder.id, DIGEST, len(CORPUS))
    assert [event.kind for event in heard] == [Kind.BLOB_DAMAGED]
