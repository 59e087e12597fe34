"""A node's gate and its constitution: facts from a ledger, orders by file, statements, votes by the command line."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import examples
import msgspec
import pytest
import trio
import trio.testing
from click.testing import CliRunner, Result

import trainer
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Amendment, Gate
from ledger.queries import governing
from ledger.store import Store
from node.amend_cli import amend_group
from node.charter import Charter, default_constitution
from node.errors import UserError
from node.gate_cli import gate_group
from node.governance import Governance, Observed, Orders, read_orders, write_orders
from node.home import Home, found_challenge
from node.tracks import CPU_TRACK, own_tracks
from policy.constitution import Constitution
from policy.gate import Action, State

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)  # of the day on which examples.author says that it is


def nothing() -> None:
    return None


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    text = folder / "text.txt"
    text.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    return text


@pytest.fixture
def home(tmp_path: Path, template: Path) -> Home:
    found = Home(tmp_path / "home")
    maintainers = [examples.author_id(1), examples.author_id(2)]
    found_challenge(found, "test", [template], own_tracks([CPU_TRACK], 1.0), maintainers=maintainers)
    return found


class Node:
    """The parts of a node that its gate needs."""

    def __init__(self, home: Home, number: int = 1, **observed: object) -> None:
        self.home, self.challenge = home, home.challenge()
        self.store: Store = home.store(self.challenge)
        self.author: Author = examples.author(self.store, number)
        self.charter = Charter(self.store, self.challenge)
        self.lines: list[str] = []
        self.published: list[Signed] = []
        self.seen = Observed(home, self.store, self.author.id, now=lambda: NOON, **observed)  # type: ignore[arg-type]
        self.gate = self.new_gate()

    def new_gate(self) -> Governance:
        return Governance(
            self.home, self.charter, self.store, self.author, self.lines.append,
            publish=self._publish, changed=nothing, observed=self.seen,
        )  # fmt: skip

    async def _publish(self, signed: Signed) -> None:
        self.published.append(signed)

    def looked(self) -> list[tuple[str | None, str, bool]]:
        bodies = [signed.statement.body for signed in self.gate.look()]
        return [(body.previous, body.state, body.commanded) for body in bodies if isinstance(body, Gate)]

    def amend(self, after: Constitution, proposal: Signed | None = None, by: int = 1, *, text: bool = True) -> Signed:
        if text:
            self.store.blobs.put(after.canonical())
        before = self.charter.constitution().digest()
        named = None if proposal is None else proposal.id
        author = examples.author(self.store, by)
        return author.append(
            "main",
            after.digest(),
            lambda entry: Amendment(entry=entry, previous=before, proposal=named, reason="as agreed"),
        )

    def pass_time(self, ticks: int) -> None:
        """Somebody makes statements until the Lamport clock stands so much later."""
        other = examples.author(self.store, 9)
        with self.store.batch():
            for _ in range(ticks):
                examples.state_adoption(other, "a" * 64)


@pytest.fixture
def node(home: Home) -> Iterator[Node]:
    made = Node(home)
    yield made
    made.store.close()


def quick(share: float = 0.4, delay: int = 5) -> Constitution:
    base = default_constitution()
    values = {"verification_share": share, "amendment_delay_ticks": float(delay)}
    changed = {name: msgspec.structs.replace(base.limits[name], value=value) for name, value in values.items()}
    return msgspec.structs.replace(base, limits={**base.limits, **changed})


def test_the_first_look_states_the_gate_and_the_next_says_nothing(node: Node) -> None:
    assert node.looked() == [(None, "RUN", False)]
    assert node.looked() == []
    last = governing.last_gate(node.store, node.author.id)
    assert last is not None
    assert (last.reason, last.constitution) == ("first start", node.challenge.constitution)


def test_the_facts_come_from_the_own_ledger(node: Node) -> None:
    for seed in range(12):
        examples.state_trial(node.author, "a" * 64, seed, 3.0 if seed < 4 else None)
    examples.state_trial(examples.author(node.store, 2), "a" * 64, 0, None)  # another's
    facts = node.seen.facts(6 * 3600.0, 0)
    assert facts.compute_s_today == pytest.approx(12 * 14.0)
    assert facts.trials_recent == 0  # they were recorded at midnight, twelve hours before
    assert node.seen.facts(13 * 3600.0, 0).failed_recent == 8
    assert facts.disk_free_bytes > 0
    assert facts.integrity_failures == ()


def test_crashes_throttle_and_freeze_and_are_forgotten_in_time(home: Home) -> None:
    node = Node(home)
    now = [datetime(2026, 1, 1, 1, tzinfo=UTC)]
    node.seen = Observed(home, node.store, node.author.id, now=lambda: now[0])
    node.gate = node.new_gate()
    node.looked()
    for seed in range(20):
        examples.state_trial(node.author, "a" * 64, seed, None)
    assert node.looked() == [("RUN", "FREEZE", False)]
    assert "every run fails" in node.lines[-1]
    assert "FREEZE" in (node.gate.forbids(Action.ADOPT) or "")
    now[0] = datetime(2026, 1, 1, 8, tzinfo=UTC)
    assert [node.looked() for _ in range(3)] == [[("FREEZE", "THROTTLE", False)], [("THROTTLE", "RUN", False)], []]


def test_a_trusted_peer_who_contradicts_is_seen_and_a_stranger_is_not(home: Home) -> None:
    weights: dict[str, float] = {}
    node = Node(home, standing=lambda: weights)
    finder, peer = examples.author(node.store, 3), examples.author(node.store, 4)
    for number in range(4):
        body = examples.discovery_body(finder, "a" * 64, examples.digest(str(number)))
        found = finder.append("main", examples.digest(str(number)), body)
        examples.state_attestation(node.author, found, "confirmed")
        examples.state_attestation(peer, found, "refuted")
    assert node.seen.facts(13 * 3600.0, 0).verdicts_shared == 0
    weights[peer.id] = 0.8
    facts = node.seen.facts(13 * 3600.0, 0)
    assert (facts.verdicts_shared, facts.verdicts_contradicted) == (4, 4)


def test_adoptions_count_until_somebody_has_looked(node: Node) -> None:
    for number in range(3):
        body = examples.discovery_body(node.author, "a" * 64, examples.digest(str(number)))
        found = node.author.append("main", examples.digest(str(number)), body)
        examples.state_adoption(node.author, examples.digest(str(number)), found)
    examples.state_adoption(node.author, "b" * 64)  # the baseline is no discovery
    assert node.seen.facts(3600.0, 0).adoptions_unseen == 3
    assert node.seen.facts(3600.0, node.store.clock()).adoptions_unseen == 0


def test_an_order_is_followed_stated_and_kept_over_a_restart(node: Node) -> None:
    node.looked()
    write_orders(node.home.gate_file, Orders(command="FREEZE", reason="an audit"))
    assert node.looked() == [("RUN", "FREEZE", True)]
    node.gate = node.new_gate()
    assert node.gate.state is State.FREEZE
    assert node.looked() == []
    write_orders(node.home.gate_file, Orders())
    assert [node.looked() for _ in range(3)] == [
        [("FREEZE", "FREEZE", False)],
        [("FREEZE", "THROTTLE", False)],
        [("THROTTLE", "RUN", False)],
    ]


def test_a_spoilt_order_changes_nothing_and_says_so(node: Node) -> None:
    write_orders(node.home.gate_file, Orders(command="FREEZE", reason="an audit"))
    node.looked()
    node.home.gate_file.write_text("{")
    assert node.looked() == []
    assert node.gate.state is State.FREEZE
    assert "command the gate again" in node.lines[-1]
    with pytest.raises(ValueError, match="cannot be read"):
        read_orders(node.home.gate_file)


async def test_what_runs_is_cancelled_when_the_gate_stops_and_goes_on_after(
    node: Node, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await nursery.start(node.gate.watch)
    assert [signed.statement.kind for signed in node.published] == ["gate"]
    write_orders(node.home.gate_file, Orders(command="STOP", reason="the machine is needed"))
    with trio.fail_after(60), node.gate.while_allowed(Action.TRIAL) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    with node.gate.while_allowed(Action.TRIAL) as scope:
        await trio.sleep_forever()  # nothing begins either
    write_orders(node.home.gate_file, Orders())
    with trio.fail_after(60):
        await node.gate.until_allowed(Action.TRIAL)
    assert node.gate.state is State.FREEZE
    assert any(line.startswith("waiting: the gate is at STOP") for line in node.lines)
    nursery.cancel_scope.cancel()


def test_an_evaluator_that_changes_under_a_running_node_stops_it(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "trainer"
    shutil.copytree(Path(trainer.__file__).parent, copy)
    node = Node(home, evaluator=copy)
    node.looked()
    command = copy / "sandbox" / "command.py"
    before = command.read_text()
    command.write_text(before.replace("--unshare", "--share"))
    assert before != command.read_text()
    assert node.looked() == [("RUN", "STOP", False)]
    assert "evaluator" in node.lines[-1]
    command.write_text(before)
    assert node.looked() == [("STOP", "FREEZE", False)]


def test_an_amendment_is_in_force_after_its_delay_and_the_gate_says_so(home: Home) -> None:
    node = Node(home)
    node.looked()
    proposal = node.amend(quick())
    assert node.charter.history().terms[-1].since == 0
    vote = node.amend(quick(), proposal, by=2)
    since = vote.statement.entry.lamport + default_constitution().numbers().amendment_delay_ticks
    assert node.charter.limits().verification_share == 0.3
    node.pass_time(since - 1 - node.store.clock())
    assert node.charter.limits().verification_share == 0.4
    assert node.charter.term(since - 1).constitution == node.challenge.constitution
    assert node.looked() == [("RUN", "RUN", False)]
    last = governing.last_gate(node.store, node.author.id)
    assert last is not None
    assert last.constitution == quick().digest()


def test_a_ratified_text_that_is_missing_is_asked_for_and_waited_for(node: Node) -> None:
    proposal = node.amend(quick(), text=False)
    node.amend(quick(), proposal, by=2, text=False)
    assert node.charter.history().waiting_for == quick().digest()
    assert node.store.blobs.missing(5) == [quick().digest()]
    node.store.blobs.put(quick().canonical())
    assert node.charter.history().waiting_for is None
    assert len(node.charter.history().terms) == 2
    assert node.store.blobs.missing(5) == []


def test_who_works_by_rules_that_nobody_proposed_has_to_wait(node: Node) -> None:
    peer = examples.author(node.store, 5)
    assert node.charter.stranger(peer.id) is None
    state_gate = partial(Gate, previous=None, state="RUN", commanded=False, reason="first start")
    peer.append("main", quick().digest(), lambda entry: state_gate(entry=entry))
    assert quick().digest()[:12] in (node.charter.stranger(peer.id) or "")
    node.amend(quick())  # a maintainer's word, though not ratified: it may be in force elsewhere already
    assert node.charter.stranger(peer.id) is None


def test_without_its_constitution_a_ledger_says_what_to_do(node: Node) -> None:
    node.store.db.execute("DELETE FROM blobs WHERE digest = ?", (node.challenge.constitution,))
    with pytest.raises(UserError, match="fresh --home"):
        Charter(node.store, node.challenge)


# The command line


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


def test_the_gate_is_shown_commanded_and_left_to_the_rules(home: Home) -> None:
    shown = run(gate_group, "--home", home.path).output
    assert "gate       RUN" in shown
    assert "bytes free on the disk" in shown
    assert "say why" in str(run(gate_group, "FREEZE", "--home", home.path).exception)
    assert "in capitals" in str(run(gate_group, "freeze", "--home", home.path).exception)
    assert "next start" in run(gate_group, "FREEZE", "--reason", "an audit", "--home", home.path).output
    assert read_orders(home.gate_file) == Orders(command="FREEZE", reason="an audit")
    node = Node(home)
    node.author = Author(node.store, home.key(), now=lambda: "2026-01-01T00:00:00Z")
    node.gate = node.new_gate()
    node.looked()
    facts = json.loads(run(gate_group, "--home", home.path, "--json").output)
    assert (facts["state"], facts["commanded"], facts["reason"]) == ("FREEZE", True, "an audit")
    assert "adopting a program" in facts["forbidden"]
    assert run(gate_group, "seen", "--home", home.path).exit_code == 0
    assert read_orders(home.gate_file).seen == node.store.clock()
    assert run(gate_group, "auto", "--home", home.path).exit_code == 0
    assert read_orders(home.gate_file).command is None
    assert isinstance(run(gate_group, "seen", "--home", home.path.parent / "none").exception, UserError)


def test_a_maintainer_proposes_and_another_ratifies(tmp_path: Path, template: Path) -> None:
    home = Home(tmp_path / "own")
    found_challenge(home, "test", [template], own_tracks([CPU_TRACK], 1.0))
    at = ("--home", home.path)
    file = tmp_path / "wanted.toml"
    file.write_text(run(amend_group, "show", *at).output)
    same = run(amend_group, "propose", file, "--reason", "none", *at)
    assert "changes nothing" in str(same.exception)
    file.write_text(quick().to_toml())
    done = run(amend_group, "propose", file, "--reason", "more checks", *at)
    assert done.exit_code == 0, done.exception
    assert "ratified by 1 votes, in force from Lamport time 1001" in done.output
    listed = run(amend_group, "list", *at).output
    assert "verification_share: 0.3 → 0.4" in listed
    proposal = done.output.split()[1]
    assert "not open" in str(run(amend_group, "ratify", proposal, *at).exception)
    facts = json.loads(run(amend_group, "list", "--json", *at).output)
    assert facts["proposals"][0]["why"] == "more checks"
    assert facts["proposals"][0]["fate"] == "ratified"
    file.write_text(quick().to_toml().replace("signed by the author's key", "signed or not"))
    assert "nothing can change" in str(run(amend_group, "propose", file, "--reason", "x", *at).exception)


def test_only_a_maintainer_has_a_vote(home: Home, tmp_path: Path) -> None:
    """The home's own key is none of the two maintainers'."""
    node, at = Node(home), ("--home", home.path)
    proposal = node.amend(quick())
    refused = run(amend_group, "ratify", proposal.id, *at)
    assert "no maintainer" in str(refused.exception)
    assert examples.author_id(2) in str(refused.exception)
    file = tmp_path / "wanted.toml"
    file.write_text(quick().to_toml())
    assert "no maintainer" in str(run(amend_group, "propose", file, "--reason", "x", *at).exception)
