"""Which proposers a node asks, and what happens where they fail, cost money, or are not understood."""

import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import examples
import pytest
import trio
from msgspec.structs import replace
from scripted import ScriptedLane, program

from gossip.libp2p_transport import Libp2pTransport
from ledger.author import Author
from ledger.envelope import peer_id
from node.app import Node as RunningNode
from node.charter import default_constitution
from node.claims import ClaimBook
from node.errors import UserError
from node.home import Home
from node.proposers import KEY_VARIABLE, Chosen, Settings, choose, read_settings, usd_spent
from trainer.challenge import Challenge, CorpusRef, Split, Track
from trainer.corpus import Corpus, Document
from trainer.proposers.briefing import Setting
from trainer.proposers.proposal import Context, Transfer

SETTING = Setting(
    challenge="a challenge", track="cpu-quick", device="cpu", clock="cpu", budget_s=10.0, threads=1,
    memory_bytes=2**30, seq_len=128, vocab_size=256,
)  # fmt: skip
PARENT = Context(program="RATE = 0.01\nWIDTH = 64\n\n\ndef build(a, b): ...\n\n\ndef train(a, b): ...\n")
KEY = "sk-test-0123456789abcdef0123456789"


class Node:
    """A folder with settings, and whether the gate forbids to spend."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder, self.lines, self.forbidden = folder, list[str](), ""
        (folder / "waggle.toml").write_text(settings)

    def choose(self, *names: str, environment: dict[str, str] | None = None, transfers: bool = False) -> Chosen:
        return choose(
            names,
            read_settings(self.folder / "waggle.toml"),
            SETTING,
            self.folder / "spending.jsonl",
            environment or {},
            forbids_pay=lambda: self.forbidden or None,
            report=self.lines.append,
            transfers=transfers,
            now=lambda: 1_000_000.0,
        )


def test_without_settings_and_names_it_is_evolve(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "none.toml") == Settings()
    chosen = Node(tmp_path).choose()
    assert chosen.proposer.propose(PARENT, random.Random(0)).proposer == "evolve"
    assert chosen.usd_today() == 0.0


COMMAND = """
[command]
argv = ["/bin/sh", "-c", "echo 'ran' >> {log}; sed -i 's/WIDTH = 64/WIDTH = 96/' train.py"]
usd_per_run = 0.25
"""


def test_a_command_proposes_its_cost_counts_and_outlives_a_restart(tmp_path: Path) -> None:
    node = Node(tmp_path, COMMAND.format(log=tmp_path / "log"))
    chosen = node.choose("command")
    made = chosen.proposer.propose(PARENT, random.Random(0))
    assert (made.proposer, "WIDTH = 96" in made.program) == ("command", True)
    assert chosen.usd_today() == 0.25
    assert node.choose("command").usd_today() == 0.25


def test_what_costs_money_is_not_asked_while_the_gate_forbids_it_and_evolve_stands_behind(tmp_path: Path) -> None:
    node = Node(tmp_path, COMMAND.format(log=tmp_path / "log"))
    chosen = node.choose("command")
    node.forbidden = "the gate is at THROTTLE"
    assert chosen.proposer.propose(PARENT, random.Random(0)).proposer == "evolve"
    assert not (tmp_path / "log").exists()
    node.forbidden = ""
    assert chosen.proposer.propose(PARENT, random.Random(0)).proposer == "command"  # it did not rest


def test_one_that_fails_leaves_the_turn_to_evolve_and_its_reason_is_said(tmp_path: Path) -> None:
    node = Node(tmp_path, '[command]\nargv = ["/bin/false"]\n')
    chosen = node.choose("command")
    for seed in range(5):
        assert chosen.proposer.propose(PARENT, random.Random(seed)).proposer == "evolve"
    assert len(node.lines) == 1  # it rests
    assert "proposer command" in node.lines[0]


def test_shares_learn_from_outcomes_and_optuna_hears_scores(tmp_path: Path) -> None:
    node = Node(tmp_path)
    chosen = node.choose("evolve", "optuna")
    rng, names = random.Random(0), set()
    for number in range(12):
        made = chosen.proposer.propose(PARENT, rng)
        names.add(made.proposer)
        chosen.learn(made.proposer, made.program, 3.0 + number / 100, 0.0, 10.0)
    chosen.learn("operator", PARENT.program, None, 0.0, 1.0)
    assert names == {"evolve", "optuna"}


def test_where_there_are_several_tracks_what_others_confirm_is_tried_soon_and_costs_nothing_else(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path)
    chosen, rng = node.choose(transfers=True), random.Random(0)
    for number in range(30):  # evolve has its bad record, and transfers have had nothing to carry
        made = chosen.proposer.propose(PARENT, rng)
        assert made.proposer == "evolve"
        chosen.learn(made.proposer, made.program, 3.0 + number / 100, 0.0, 10.0)
    text = PARENT.program
    there = Transfer(
        source="found", track="gpu-5min", operator="", ancestor=text, program=text.replace("= 64", "= 128"), effect=-0.1
    )
    context = replace(PARENT, transfers=(there,))
    made_by = [chosen.proposer.propose(context, rng) for _ in range(40)]
    assert "transfer" in {one.proposer for one in made_by[:10]}
    assert {one.source for one in made_by} == {"", "found"}
    assert node.lines == []
    assert node.choose().proposer.propose(context, rng).proposer == "evolve"


def test_what_is_under_way_when_the_node_ends_counts_as_spent(tmp_path: Path) -> None:
    begun, end = tmp_path / "begun", tmp_path / "end"
    os.mkfifo(begun)
    os.mkfifo(end)
    script = f"echo begun > {begun}; cat {end}"
    node = Node(tmp_path, f'[command]\nargv = ["/bin/sh", "-c", "{script}"]\nusd_per_run = 0.25\n')
    chosen = node.choose("command")
    with ThreadPoolExecutor(1) as others:
        proposing = others.submit(chosen.proposer.propose, PARENT, random.Random(0))
        assert begun.read_text() == "begun\n"
        chosen.close()
        assert chosen.usd_today() == 0.25
        assert usd_spent(tmp_path / "spending.jsonl", 1_000_000.0) == 0.25
        end.write_text("")
        assert proposing.result(20).proposer == "evolve"
    assert usd_spent(tmp_path / "spending.jsonl", 2_000_000.0) == 0.0
    (tmp_path / "spending.jsonl").write_text("what\n")
    with pytest.raises(UserError, match="line 1 of"):
        usd_spent(tmp_path / "spending.jsonl", 1_000_000.0)


async def test_a_running_node_asks_its_command_states_the_claim_and_remembers_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a node but its trials, which are scripted."""
    corpus = Corpus(tuple(Document(f"{number}.txt", b"%d " % number * 1000) for number in range(200)))
    rules = default_constitution()
    challenge = Challenge(
        name="test",
        founder=peer_id(examples.key(1).public_key()),
        constitution=rules.digest(),
        corpus=CorpusRef(digest=corpus.digest(), bytes=corpus.text_bytes, documents=len(corpus.documents)),
        split=Split(public_salt="0" * 32),
        tracks={examples.TRACK: Track(baseline=examples.digest(program(0.0).decode()))},
    )
    home = Home(tmp_path)
    parts = {corpus.digest(): corpus.packed(), "baseline": program(0.0), "rules": rules.canonical()}
    home.settle(challenge, parts)
    log = tmp_path / "log"
    script = (
        f"env >> {log}; echo ran >> {log}; sed -i s/^GAIN.*/GAIN=-$(grep -c ran {log}).0/ train.py; echo Less gain."
    )
    home.settings_file.write_text(f'[command]\nargv = ["/bin/sh", "-c", "{script}"]\nusd_per_run = 0.01\n')
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    store, lines = home.store(challenge), list[str]()
    async with trio.open_nursery() as nursery:
        transport = Libp2pTransport(home.key(), "/ip4/127.0.0.1/tcp/0")
        await nursery.start(transport.run)
        node = RunningNode(home, challenge, store, transport, lines.append, lambda failure: None)
        await nursery.start(node.serve, ())
        with trio.fail_after(60):
            await node.work_in(lambda: nullcontext(ScriptedLane()), examples.TRACK, 24, proposers=("command",))
        nursery.cancel_scope.cancel()
    past = ClaimBook(store, Author(store, home.key()), examples.TRACK).own_past()
    assert {one.proposer for one in past} == {"command"}
    assert len(past) >= 3  # of 24 runs; how many more depends on how long the command takes: meanwhile controls are run
    assert all(one.gain == 0 and one.lane_s > 0 and one.score is not None for one in past)
    assert any("Less gain." in line for line in lines)
    assert KEY_VARIABLE not in log.read_text()
    assert "PATH=" in log.read_text()
    spent = usd_spent(home.accounts_file, time.time())
    assert spent == pytest.approx(0.01 * log.read_text().count("ran\n"), abs=0.011)


@pytest.mark.parametrize("document", ["search.md", "proposers.md"])
def test_every_settings_file_in_the_documents_is_understood(tmp_path: Path, document: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / document).read_text()
    examples = re.findall(r"(?ms)^```toml\n(.*?)^```", text)
    assert examples
    for example in examples:
        Node(tmp_path, example).choose("anthropic", "command", environment={KEY_VARIABLE: KEY})
        assert read_settings(tmp_path / "waggle.toml").proposers[0] == "evolve"


@pytest.mark.parametrize(
    ("settings", "names", "message"),
    [
        ("", ("oracle",), "no proposer 'oracle'"),
        ('proposers = ["oracle"]', (), "no proposer 'oracle'"),
        ("proposers = []", (), "at least one"),
        ("proposer = 1", (), "waggle.toml cannot be used"),
        ("[caps]\nusd_per_day = -1.0", (), "waggle.toml cannot be used"),
        ("not toml", (), "waggle.toml cannot be used"),
        ("", ("command",), "argv"),
        ('[command]\nargv = ["a"]\nargs = 1', ("command",), "there is no 'args'"),
        ("", ("anthropic",), KEY_VARIABLE),
        ('[anthropic]\nmodel = ""', ("anthropic",), r"\[anthropic\]"),
    ],
)
def test_what_is_not_understood_is_said(tmp_path: Path, settings: str, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Node(tmp_path, settings).choose(*names)


def test_the_key_comes_from_the_environment_and_stays_out_of_files_and_messages(tmp_path: Path) -> None:
    node = Node(tmp_path, '[command]\nargv = ["/bin/true"]\nvariables = ["OTHER"]\n')
    assert node.choose("anthropic", environment={KEY_VARIABLE: KEY}).proposer.name == "portfolio"
    with pytest.raises(UserError) as refused:
        node.choose("command", environment={KEY_VARIABLE: KEY, "OTHER": f"x{KEY}"})
    assert KEY not in str(refused.value)
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir() if path.is_file())
