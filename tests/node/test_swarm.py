"""Whole nodes over real libp2p on loopback: every part but the trials themselves, which are scripted."""

from collections.abc import Callable
from pathlib import Path

import examples
import trio
from scripted import ScriptedLane, program

from gossip.holdings import Holdings
from gossip.libp2p_transport import Libp2pTransport
from gossip.protocols import Responder, fetch_status
from ledger import queries
from ledger.envelope import peer_id
from ledger.store import Store
from node import status
from node.app import Node
from node.charter import default_constitution
from node.errors import UserError
from node.home import Home
from node.joining import fetch_challenge
from trainer.challenge import Challenge, CorpusRef, Split, Track
from trainer.corpus import Corpus, Document

PATIENCE_S = 60.0
BASELINE = program(0.0)
CONSTITUTION = default_constitution()
CORPUS = Corpus(tuple(Document(f"{number}.txt", b"%d " % number * 1000) for number in range(200)))


def new_challenge(name: str) -> Challenge:
    return Challenge(
        name=name,
        founder=peer_id(examples.key(1).public_key()),
        constitution=CONSTITUTION.digest(),
        corpus=CorpusRef(digest=CORPUS.digest(), bytes=CORPUS.text_bytes, documents=len(CORPUS.documents)),
        split=Split(public_salt="0" * 32),
        tracks={examples.TRACK: Track(baseline=examples.digest(BASELINE.decode()))},
    )


class Swarm:
    """Nodes of one test, in its own nursery."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self._nursery, self._folder = nursery, folder
        self.heard = trio.Event()
        self.refusals: list[UserError] = []
        self.lines: list[str] = []

    def _report(self, line: str) -> None:
        self.lines.append(line)
        self.heard.set()
        self.heard = trio.Event()

    def _refuse(self, failure: UserError) -> None:
        self.refusals.append(failure)
        self._report(str(failure))

    def found(self, name: str, challenge: str = "test") -> Home:
        home = Home(self._folder / name)
        home.settle(
            new_challenge(challenge),
            {CORPUS.digest(): CORPUS.packed(), "baseline": BASELINE, "rules": CONSTITUTION.canonical()},
        )
        return home

    async def start(self, name: str, join: tuple[str, ...] = (), trials: int | None = None) -> tuple[Store, str]:
        """A working node on the home `name`, joined to a swarm by address if it has none yet."""
        home = Home(self._folder / name)
        transport = Libp2pTransport(home.key(), "/ip4/127.0.0.1/tcp/0")
        await self._nursery.start(transport.run)
        if not home.is_initialised():
            await fetch_challenge(transport, home, join, self._report)
        challenge = home.challenge()
        store = home.store(challenge)
        node = Node(home, challenge, store, transport, self._report, self._refuse)
        await self._nursery.start(node.serve, join)
        self._nursery.start_soon(node.work_on, ScriptedLane(), examples.TRACK, trials)
        return store, transport.addresses()[0]

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(PATIENCE_S):
            while not condition():
                await self.heard.wait()
            return
        raise AssertionError("did not happen; reported:\n" + "\n".join(self.lines[-40:]))


def verified(store: Store) -> bool:
    return any(row.confirmed >= 1 and row.adopted >= 2 for row in queries.discoveries(store))


async def test_a_discovery_is_made_shared_verified_and_adopted(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, tmp_path)
        swarm.found("a")
        one, address = await swarm.start("a")
        two, _ = await swarm.start("b", (address,))
        await swarm.until(lambda: verified(one) and verified(two))
        row = next(row for row in queries.discoveries(one) if row.confirmed and row.adopted >= 2)
        assert two.blobs.get(row.child) == one.blobs.get(row.child)
        assert queries.ancestors(two, row.id) == queries.ancestors(one, row.id)
        nursery.cancel_scope.cancel()


async def test_a_late_joiner_with_nothing_but_an_address_gets_everything(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, tmp_path)
        home = swarm.found("a")
        one, address = await swarm.start("a", trials=12)
        await swarm.until(lambda: any(line.startswith("done") for line in swarm.lines))
        two, _ = await swarm.start("b", (address,), trials=1)
        await swarm.until(lambda: one.heads().items() <= two.heads().items() and not two.blobs.missing(1))
        joined = Home(tmp_path / "b")
        assert joined.challenge() == home.challenge()
        assert joined.store(joined.challenge()).blobs.get(home.challenge().corpus.digest) == CORPUS.packed()
        assert joined.private_split() != home.private_split()
        nursery.cancel_scope.cancel()


async def test_a_home_of_another_challenge_is_refused_by_name(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, tmp_path)
        swarm.found("a", "one")
        swarm.found("b", "another")
        one, address = await swarm.start("a", trials=1)
        two, _ = await swarm.start("b", (address,), trials=1)
        await swarm.until(lambda: bool(swarm.refusals))
        assert "another swarm" in str(swarm.refusals[0])
        assert not {author for author, _ in one.heads()} & {author for author, _ in two.heads()}
        nursery.cancel_scope.cancel()


async def test_a_node_that_went_back_to_a_backup_hears_of_its_past_before_it_speaks(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, tmp_path)
        home = swarm.found("a")
        backup = home.ledger_file.read_bytes()
        one, address = await swarm.start("a", trials=12)
        await swarm.until(lambda: any(line.startswith("done") for line in swarm.lines))
        two, _ = await swarm.start("b", (address,), trials=1)
        await swarm.until(lambda: one.heads().items() <= two.heads().items() and not two.blobs.missing(1))
        past = one.heads()
        one.close()
        nursery.cancel_scope.cancel()
    for file in tmp_path.glob("a/ledger.db*"):
        file.unlink()
    home.ledger_file.write_bytes(backup)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, tmp_path)
        _, other = await swarm.start("b", trials=1)
        again, _ = await swarm.start("a", (other,), trials=1)
        await swarm.until(lambda: len([line for line in swarm.lines if line.startswith("done")]) == 2)
        me = peer_id(home.key().public_key())
        assert again.head(me, "trials") != past[me, "trials"]
        assert all(again.entry(head.id) is not None for head in past.values())
        assert not swarm.refusals
        nursery.cancel_scope.cancel()


async def test_nodes_tell_which_constitution_they_follow_and_show_who_follows_an_unknown_one(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, tmp_path)
        home = swarm.found("a")
        _, address = await swarm.start("a", trials=1)
        stranger = Libp2pTransport(examples.key(9), "/ip4/127.0.0.1/tcp/0")
        await nursery.start(stranger.run)
        digest = home.challenge().digest()
        empty = Holdings(examples.new_store(tmp_path, "empty.db", digest))
        Responder(stranger, empty, digest, "stranger", lambda: "d" * 64).serve()
        node = await stranger.connect(address)
        assert (await fetch_status(stranger, node)).constitution == CONSTITUTION.digest()

        def shown() -> dict[str, str]:
            said = status.read(home.status_file)
            return {} if said is None else said.unknown_constitutions

        with trio.fail_after(PATIENCE_S):
            while shown() != {stranger.peer_id: "d" * 64}:
                await trio.sleep(0.05)  # the status is a file
        nursery.cancel_scope.cancel()
