"""Invitations, private swarms, and fetching a swarm from peers that are away, cut off, wrong or lying."""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

import examples
import pytest
import trio
from loopback import News, Node

from gossip.blobs import BlobServer, part_of
from gossip.errors import BadAddress, DialFailed
from gossip.libp2p_transport import Libp2pTransport
from gossip.protocols import Responder
from gossip.transport import Stream
from gossip.wire import BLOB, BlobReply, BlobRequest, encode, receive
from ledger.envelope import peer_id
from ledger.store import Store
from node import joining
from node.charter import default_constitution
from node.errors import UserError
from node.home import Home
from node.invite import Invitation, accept, parse_link, read_invitations
from node.joining import fetch_challenge
from node.swarm_key import keep_swarm_key, new_swarm_key, read_swarm_key
from trainer.challenge import Challenge, CorpusRef, Split, Track
from trainer.corpus import Corpus, Document, packed_bytes_max

MIB = 2**20
PATIENCE_S = 20.0
BASELINE = b"def build(): ...\n"
CORPUS = Corpus(tuple(Document(f"{number}.txt", b"%d\n" % (number * 7919) * 4000) for number in range(100)))
CONSTITUTION = default_constitution()
KEY = bytes(range(32))
ADDRESS = f"/ip4/192.0.2.7/tcp/4001/p2p/{examples.author_id(1)}"


def new_challenge(name: str = "test") -> Challenge:
    return Challenge(
        name=name,
        founder=peer_id(examples.key(1).public_key()),
        constitution=CONSTITUTION.digest(),
        corpus=CorpusRef(digest=CORPUS.digest(), bytes=CORPUS.text_bytes, documents=len(CORPUS.documents)),
        split=Split(public_salt="0" * 32),
        tracks={examples.TRACK: Track(baseline=hashlib.sha256(BASELINE).hexdigest())},
    )


def found(path: Path, name: str = "test") -> Home:
    """A home whose corpus lies in its file and not in the ledger, as a large one does."""
    home = Home(path)
    home.corpora.mkdir(parents=True)
    home.corpus_file(CORPUS.digest()).write_bytes(CORPUS.packed())
    home.settle(new_challenge(name), {"baseline": BASELINE, "constitution": CONSTITUTION.canonical()})
    return home


class Swarm:
    """Serving nodes of one test, and what a joiner says."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self._nursery, self._folder, self._news = nursery, folder, News()
        self.said: list[str] = []
        self._spoke = trio.Event()

    def report(self, line: str) -> None:
        self.said.append(line)
        self._spoke.set()
        self._spoke = trio.Event()

    async def until_said(self, words: str) -> None:
        with trio.fail_after(PATIENCE_S):
            while not any(words in line for line in self.said):
                await self._spoke.wait()

    async def node(self, name: str) -> Node:
        return await Node(self._nursery, self._news, self._folder / name, "0" * 64, 60.0).start(mesh=False)

    async def serving(self, name: str, home: Home, *, corpus: bytes | None = None, upto: int | None = None) -> Node:
        """A node that serves `home`; in place of its corpus, if given, `corpus`, and of that no more than `upto`."""
        node, challenge = await self.node(name), home.challenge()
        store = home.store(challenge)
        Responder(node.transport, store, challenge.digest(), "test").serve()
        server = BlobServer(node.transport, store.blobs, home.blob_file)
        server.serve()
        if corpus is not None:
            node.transport.handle(BLOB, self._sending(store, corpus, upto))
        return node

    def _sending(self, store: Store, corpus: bytes, upto: int | None) -> Callable[[Stream], object]:
        async def answer(stream: Stream) -> None:
            request = await receive(stream, BlobRequest, 1000)
            data = corpus if request.digest == CORPUS.digest() else store.blobs.get(request.digest)
            await stream.write(encode(BlobReply(len(data))))
            await stream.write(data[request.offset : upto if data is corpus else None])
            await stream.finish()

        return answer


def is_settled(home: Home) -> bool:
    return home.is_initialised() and home.corpus_file(CORPUS.digest()).read_bytes() == CORPUS.packed()


# Fetching


async def test_a_corpus_is_streamed_to_its_file_with_progress(nursery: trio.Nursery, tmp_path: Path) -> None:
    swarm, home = Swarm(nursery, tmp_path), Home(tmp_path / "b")
    founder, joiner = await swarm.serving("one", found(tmp_path / "a")), await swarm.node("two")
    seen: list[tuple[str, int, int | None]] = []
    await fetch_challenge(
        joiner.transport, home, [founder.address], swarm.report, progress=lambda *now: seen.append(now)
    )
    assert is_settled(home)
    size = len(CORPUS.packed())
    assert [done for _, done, _ in seen] == [*range(MIB, size, MIB), size]
    assert {total for _, _, total in seen} == {size}
    assert not list(home.corpora.glob("*.part"))
    assert home.private_split() != Home(tmp_path / "a").private_split()


async def test_a_corpus_that_one_peer_breaks_off_comes_from_the_others_meanwhile(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    swarm, founded, home = Swarm(nursery, tmp_path), found(tmp_path / "a"), Home(tmp_path / "b")
    first = await swarm.serving("one", founded, corpus=CORPUS.packed(), upto=10)
    second, joiner = await swarm.serving("two", founded), await swarm.node("three")
    seen: list[int] = []
    await fetch_challenge(
        joiner.transport, home, [first.address, second.address], swarm.report,
        progress=lambda _, done, __: seen.append(done),
    )  # fmt: skip
    assert is_settled(home)
    assert seen == sorted(set(seen))
    assert any(f"from {first.id[-8:]}, {second.id[-8:]}" in line for line in swarm.said)
    assert any(line.startswith(first.id[-8:]) and "ended after 10" in line for line in swarm.said)
    assert not any("trying again" in line for line in swarm.said)


async def test_a_corpus_comes_from_all_addresses_that_answer(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gossip.limits.BLOB_RANGE_BYTES", 100_000)
    swarm, founded, home = Swarm(nursery, tmp_path), found(tmp_path / "a"), Home(tmp_path / "b")
    one, other = await swarm.serving("one", founded), await swarm.serving("two", founded)
    joiner = await swarm.node("three")
    gone = ADDRESS.replace("192.0.2.7", "127.0.0.1").replace("4001", "1")
    await fetch_challenge(joiner.transport, home, [one.address, gone, other.address], swarm.report)
    assert is_settled(home)
    for node in (one, other):
        assert node.transport.metrics.snapshot()['requests_total{of="/waggle/blob/1"}'] > 0


async def test_a_joiner_that_was_stopped_goes_on_after_its_restart(nursery: trio.Nursery, tmp_path: Path) -> None:
    swarm, founded, home = Swarm(nursery, tmp_path), found(tmp_path / "a"), Home(tmp_path / "b")
    cut = await swarm.serving("one", founded, corpus=CORPUS.packed(), upto=MIB)
    joiner = await swarm.node("two")
    async with trio.open_nursery() as first_run:
        first_run.start_soon(fetch_challenge, joiner.transport, home, [cut.address], swarm.report)
        await swarm.until_said("nothing to work on")
        first_run.cancel_scope.cancel()
    assert part_of(home.corpus_file(CORPUS.digest())).stat().st_size == MIB
    founder, seen = await swarm.serving("three", founded), list[int]()
    await fetch_challenge(
        joiner.transport, home, [founder.address], swarm.report, progress=lambda _, done, __: seen.append(done)
    )
    assert is_settled(home)
    assert seen[0] == min(2 * MIB, len(CORPUS.packed()))


async def test_a_lying_peer_is_told_and_the_corpus_comes_from_an_honest_one(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    swarm, founded, home = Swarm(nursery, tmp_path), found(tmp_path / "a"), Home(tmp_path / "b")
    liar = await swarm.serving("one", founded, corpus=bytes(len(CORPUS.packed())))
    honest, joiner = await swarm.serving("two", founded), await swarm.node("three")
    async with trio.open_nursery() as alone:
        alone.start_soon(fetch_challenge, joiner.transport, home, [liar.address], swarm.report)
        await swarm.until_said("other bytes")
        alone.cancel_scope.cancel()
    assert any("other bytes" in line and liar.id in line for line in swarm.said)
    await fetch_challenge(joiner.transport, home, [liar.address, honest.address], swarm.report)
    assert is_settled(home)


async def test_a_corpus_larger_than_the_challenge_can_have_is_refused(nursery: trio.Nursery, tmp_path: Path) -> None:
    swarm, founded, home = Swarm(nursery, tmp_path), found(tmp_path / "a"), Home(tmp_path / "b")
    liar = await swarm.serving("one", founded, corpus=bytes(packed_bytes_max(CORPUS.text_bytes, 100) + 1))
    joiner = await swarm.node("two")
    async with trio.open_nursery() as joining_nursery:
        joining_nursery.start_soon(fetch_challenge, joiner.transport, home, [liar.address], swarm.report)
        await swarm.until_said("over")
        joining_nursery.cancel_scope.cancel()
    assert not home.is_initialised()
    assert sum(path.stat().st_size for path in home.corpora.iterdir()) == 0


async def test_a_corpus_that_peers_do_not_pass_on_is_asked_for_by_hand(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "BLOB_FILE_BYTES_MAX", 1000)
    swarm, home = Swarm(nursery, tmp_path), Home(tmp_path / "b")
    founder, joiner = await swarm.serving("one", found(tmp_path / "a")), await swarm.node("two")
    with pytest.raises(UserError, match=f"Copy the file corpus/{CORPUS.digest()}"):
        await fetch_challenge(joiner.transport, home, [founder.address], swarm.report)
    home.corpora.mkdir(parents=True)
    home.corpus_file(CORPUS.digest()).write_bytes(CORPUS.packed())
    await fetch_challenge(joiner.transport, home, [founder.address], swarm.report)
    assert is_settled(home)


async def test_an_invitation_is_kept_to_whatever_a_peer_says(nursery: trio.Nursery, tmp_path: Path) -> None:
    swarm, home = Swarm(nursery, tmp_path), Home(tmp_path / "c")
    other = await swarm.serving("one", found(tmp_path / "a", "other"))
    right = await swarm.serving("two", found(tmp_path / "b", "right"))
    joiner = await swarm.node("three")
    meant = new_challenge("right").digest()
    await fetch_challenge(joiner.transport, home, [other.address, right.address], swarm.report, invited_to=meant)
    assert home.challenge().digest() == meant
    assert any(other.address in line and f"the invitation is to {meant}" in line for line in swarm.said)


async def test_nobody_there_is_said_and_tried_again(nursery: trio.Nursery, tmp_path: Path) -> None:
    swarm, founded, home = Swarm(nursery, tmp_path), found(tmp_path / "a"), Home(tmp_path / "b")
    founder, joiner = await swarm.serving("one", founded), await swarm.node("two")
    address = founder.address.replace("/ip4/127.0.0.1/", "/dns4/localhost/")
    gone = ADDRESS.replace("192.0.2.7", "127.0.0.1").replace("4001", "1")
    await fetch_challenge(joiner.transport, home, [gone, address], swarm.report)
    assert is_settled(home)
    assert any(gone in line for line in swarm.said)


# Invitations


@pytest.mark.parametrize("key", [None, KEY])
def test_a_link_is_read_as_written(key: bytes | None) -> None:
    invitation = Invitation((ADDRESS, ADDRESS.replace("ip4/192.0.2.7", "dns4/example.org")), "a" * 64, key)
    assert parse_link(invitation.link()) == invitation
    assert (KEY.hex() in invitation.link().partition("#")[2]) == (key is not None)


@pytest.mark.parametrize(
    "link",
    ["waggle:", "waggle://", f"waggle://{'a' * 63}?peer={ADDRESS}", f"waggle://{'a' * 64}", f"waggle://{'a' * 64}?x=y",
     f"waggle://{'A' * 64}?peer={ADDRESS}", f"waggle://{'a' * 64}?peer={ADDRESS}#psk=00",
     f"waggle://{'a' * 64}?peer={ADDRESS}#key={KEY.hex()}", f"waggle://{'a' * 64}/?peer={ADDRESS}",
     f"waggle://{'a' * 64}?" + "&".join([f"peer={ADDRESS}"] * 17), "waggle://[?peer=x", "waggle:" + "x" * 9000],
)  # fmt: skip
def test_links_that_cannot_be_read_are_refused_with_what_to_do(link: str) -> None:
    with pytest.raises(UserError, match="waggle invite"):
        parse_link(link)


def test_addresses_in_links_and_beside_them_are_checked() -> None:
    with pytest.raises(BadAddress, match="192"):
        read_invitations([f"waggle://{'a' * 64}?peer=/ip4/192.0.2.7/tcp/1"])
    with pytest.raises(BadAddress):
        read_invitations(["example.org:4001"])


def test_several_links_and_addresses_are_one_invitation() -> None:
    other = ADDRESS.replace("4001", "4002")
    links = [Invitation((ADDRESS,), "a" * 64).link(), Invitation((other, ADDRESS), "a" * 64, KEY).link()]
    assert read_invitations([other, *links]) == Invitation((other, ADDRESS), "a" * 64, KEY)
    assert read_invitations([]) == Invitation(())
    with pytest.raises(UserError, match="different swarms"):
        read_invitations([links[0], Invitation((ADDRESS,), "b" * 64).link()])


def test_a_link_to_another_challenge_than_the_homes_is_refused(tmp_path: Path) -> None:
    home = found(tmp_path / "a")
    with pytest.raises(UserError, match="fresh --home"):
        accept(home, [Invitation((ADDRESS,), "a" * 64, KEY).link()], None)
    assert home.swarm_key() is None
    assert accept(home, [Invitation((ADDRESS,), home.challenge().digest()).link()], None).addresses == (ADDRESS,)


# Private swarms


def test_a_swarm_key_is_kept_secret_and_never_replaced(tmp_path: Path) -> None:
    home, file = Home(tmp_path / "a"), tmp_path / "given.key"
    home.path.mkdir()
    keep_swarm_key(file, KEY)
    assert file.read_text() == f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}\n"
    accept(home, [], file)
    assert stat.S_IMODE(home.swarm_key_file.stat().st_mode) == 0o600
    assert home.swarm_key() == KEY
    accept(home, [Invitation((ADDRESS,), "a" * 64, KEY).link()], file)
    with pytest.raises(UserError, match="another private swarm"):
        accept(home, [Invitation((ADDRESS,), "a" * 64, new_swarm_key()).link()], None)
    with pytest.raises(UserError, match="Give one of them"):
        accept(home, [Invitation((ADDRESS,), "a" * 64, new_swarm_key()).link()], file)
    assert home.swarm_key() == KEY


@pytest.mark.parametrize(
    "text", ["", KEY.hex(), "/key/swarm/psk/1.0.0/\n/base16/\n00\n", "/key/swarm/psk/1.0.0/\n" * 3]
)
def test_a_damaged_swarm_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "swarm.key").write_text(text)
    with pytest.raises(UserError, match="Copy it again"):
        read_swarm_key(tmp_path / "swarm.key")


async def test_a_private_swarm_is_joined_with_its_key_only(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gossip.limits.DIAL_DEADLINE_S", 1.0)  # what a wrong key is noticed by
    home, joined = found(tmp_path / "a"), Home(tmp_path / "b")
    founder = Libp2pTransport(examples.key(1), "/ip4/127.0.0.1/tcp/0", psk=KEY)
    await nursery.start(founder.run)
    challenge = home.challenge()
    store = home.store(challenge)
    Responder(founder, store, challenge.digest(), "test").serve()
    BlobServer(founder, store.blobs, home.blob_file).serve()
    said: list[str] = []
    for number, wrong in ((2, None), (3, new_swarm_key())):
        stranger = Libp2pTransport(examples.key(number), "/ip4/127.0.0.1/tcp/0", psk=wrong)
        await nursery.start(stranger.run)
        with pytest.raises(DialFailed, match="private swarm"):
            await stranger.connect(founder.addresses()[0])
    friend = Libp2pTransport(examples.key(4), "/ip4/127.0.0.1/tcp/0", psk=KEY)
    await nursery.start(friend.run)
    await fetch_challenge(friend, joined, founder.addresses(), said.append)
    assert is_settled(joined)
    assert founder.peers() == {friend.peer_id}
