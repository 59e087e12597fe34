"""What a version further ahead has written is passed over in a sync page, and nobody is blamed for it."""

from collections.abc import Callable

import msgspec
import pytest
from examples import CHALLENGE, author_id, key
from loopback import Node, statement

from gossip.errors import PeerFault
from gossip.events import Kind
from gossip.exchange import Compare, Compared, Page, Passed, Pull, Session, Sound, checked, key_of
from gossip.summary import WHOLE, Summary, after, feed_key, proof_key
from gossip.transport import Stream
from gossip.wire import SYNC, SyncReply, SyncRequest, encode, receive
from ledger.envelope import PAYLOAD_TYPE, Envelope, Signature, Signed, pae, seal
from ledger.feed import Head, next_entry
from ledger.statements import PROTOCOL
from ledger.statements import encode as encode_statement

MakeNode = Callable[..., Node]
FIRST, SECOND = sorted((1, 2), key=author_id)


def chain(number: int, length: int) -> list[Signed]:
    made: list[Signed] = []
    for _ in range(length):
        last = made[-1].statement.entry if made else None
        head = Head(last.seq, made[-1].id, last.lamport) if last else None
        entry = next_entry(head, clock=0, challenge=CHALLENGE, author=author_id(number), feed="main", recorded_at="")
        made.append(seal(key(number), encode_statement("b" * 64, statement(entry))))
    return made


def of_version(number: int, signed: Signed, protocol: int, more: bytes = b"") -> bytes:
    """The same entry as a newer version would write it."""
    payload = msgspec.msgpack.decode(signed.envelope, type=Envelope).payload
    newer = payload.replace(b'"protocol":%d' % PROTOCOL, b'"protocol":%d%s' % (protocol, more))
    assert newer != payload
    signature = Signature(author_id(number), key(number).sign(pae(PAYLOAD_TYPE, newer)))
    return msgspec.msgpack.encode(Envelope(PAYLOAD_TYPE, newer, (signature,)))


RUN, OTHERS = chain(FIRST, 4), chain(SECOND, 1)
NEWER = of_version(FIRST, RUN[2], PROTOCOL + 2, b',"of the future":[1,2]')
KEY = feed_key(author_id(FIRST), "main")
EVERYTHING = Pull((WHOLE,), (), ())


def test_the_rest_of_the_feed_is_passed_over_and_the_next_feed_is_not() -> None:
    page = Page((RUN[0].envelope, RUN[1].envelope, NEWER, RUN[3].envelope, OTHERS[0].envelope), (), more=False)
    items = list(checked(page, EVERYTHING, CHALLENGE))
    assert [type(item) for item in items] == [tuple, tuple, Passed, tuple]
    assert items[2] == Passed(KEY, f"protocol 3 is too new for this version, which reads {PROTOCOL}: update waggle")
    assert items[3] == (OTHERS[0],)


def test_a_neighbouring_version_is_held_as_before() -> None:
    page = Page((RUN[0].envelope, of_version(FIRST, RUN[1], PROTOCOL + 1)), (), more=False)
    assert [type(item) for item in checked(page, EVERYTHING, CHALLENGE)] == [tuple, tuple]


def test_a_round_goes_on_behind_the_feed() -> None:
    session = Session()
    assert isinstance(session.next_question(Summary()), Compare)
    session.compared(Summary(), Compared(b"?" * 16, (0,)))
    pull = session.next_question(Summary())
    assert isinstance(pull, Pull)
    page = Page((NEWER,), (), more=True)
    session.received(page, list(checked(page, pull, CHALLENGE)), refused=True)
    following = session.next_question(Summary())
    assert isinstance(following, Pull)
    assert [part.start for part in following.ranges] == [after(KEY)]


def test_a_proof_with_a_newer_entry_is_passed_over() -> None:
    for proof in ((RUN[2].envelope, NEWER), (NEWER, RUN[2].envelope)):
        (item,) = checked(Page((), (proof,), more=False), EVERYTHING, CHALLENGE)
        assert isinstance(item, Passed)
        assert key_of(item) == proof_key(author_id(FIRST))


@pytest.mark.parametrize(
    ("envelopes", "fault"),
    [
        ((NEWER[:-1] + bytes([NEWER[-1] ^ 1]),), "signature is not by"),
        ((NEWER, RUN[3].envelope, OTHERS[0].envelope, NEWER), "out of order"),
    ],
)
def test_what_is_no_version_matter_is_still_a_fault(envelopes: tuple[bytes, ...], fault: str) -> None:
    with pytest.raises(PeerFault, match=fault):
        list(checked(Page(envelopes, (), more=False), EVERYTHING, CHALLENGE))
    with pytest.raises(PeerFault, match="not asked for"):
        list(checked(Page((NEWER,), (), more=False), Pull((WHOLE,), (), (author_id(FIRST),)), CHALLENGE))


async def test_a_node_takes_the_rest_and_blames_nobody(make_node: MakeNode) -> None:
    ours, theirs = await make_node().start(), await make_node().start()
    pages = [Page((RUN[0].envelope, NEWER), (), more=True), Page((OTHERS[0].envelope,), (), more=False)]
    served: list[Sound] = []

    async def answer(stream: Stream) -> None:
        question = (await receive(stream, SyncRequest, 1 << 20)).question
        if isinstance(question, Compare):
            await stream.write(encode(SyncReply(Compared(b"?" * 16, (0,)))))
        else:
            await stream.write(encode(SyncReply(pages[min(len(served), 1)])))
            served.append(())
        await stream.finish()

    theirs.transport.handle(SYNC, answer)
    await ours.transport.connect(theirs.address)
    await ours.watch.event(Kind.PEER_SYNCED, theirs.id)
    assert {signed.id for signed in ours.watch.new} == {RUN[0].id, OTHERS[0].id}
    (event,) = ours.watch.of(Kind.MESSAGE_DROPPED, theirs.id)
    assert "update waggle" in event.detail
    assert not ours.watch.of(Kind.PEER_FAULT)
