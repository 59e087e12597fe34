"""What is confirmed in one track is tried in the other, both ways, and what came of it is shown."""

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import examples
import histories
import pytest
import trio

from ledger import queries
from ledger.author import Author
from ledger.predicates import Claim, Discovery, Measurement
from ledger.store import Store
from node import cli
from node.adoption import Adopter
from node.claims import ClaimBook
from node.context import Contexts
from node.home import Home, SplitChoice, found_challenge
from node.incumbent import IncumbentTree
from node.lessons import LessonBook
from node.population import Population
from node.proposing import Ahead, Propose
from node.research import Research
from node.steering import Steering
from node.tracks import CPU_TRACK, GPU_TRACK, own_tracks
from node.workbench import Workbench
from trainer.proposers.portfolio import Portfolio
from trainer.proposers.proposal import Context, NothingNew, Proposal, fingerprint
from trainer.proposers.transfer import Transfers
from trainer.requests import TrialRequest

NOISE = 0.01
GAINS = {  # bits per byte of each constant at 1, by track
    CPU_TRACK: {"DEPTH": 0.3, "WIDTH": 0.15, "RATE": 0.3},
    GPU_TRACK: {"DEPTH": 0.15, "WIDTH": 0.3, "RATE": -0.3},
}
BASELINE = "DEPTH = 0\nWIDTH = 0\nRATE = 0\n\n\ndef build(a, b): ...\n\n\ndef train(a, b): ...\n"


class Lane:
    """Scores are read off the constants, as each track has them, with noise fixed by program and seed."""

    async def trial(self, request: TrialRequest) -> Measurement:
        text = request.program.decode()
        score = 3.0 - sum(gain for name, gain in GAINS[request.track].items() if f"{name} = 1" in text)
        noise = random.Random(f"{text} {request.track} {request.seed}").gauss(0, NOISE)
        return examples.measurement(score + noise)


class Ideas:
    """Proposes to set each of some constants to 1, where that has not been tried."""

    name = "ideas"

    def __init__(self, *names: str) -> None:
        self._names = names

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        for name in self._names:
            text = context.program.replace(f"{name} = 0", f"{name} = 1")
            if text != context.program and fingerprint(text) not in context.seen:
                operator = f"constant:{name}"
                return Proposal(program=text, hypothesis=f"{name} raised", proposer=self.name, operator=operator)
        raise NothingNew("no idea is left")


async def at_once(propose: Propose, context: Context, rng: random.Random) -> Proposal:
    await trio.lowlevel.checkpoint()
    return propose(context, rng)


async def search(folder: Path, store: Store, author: Author, track: str, trusted: str, *ideas: str) -> list[str]:
    """A node in one track, from its start until it has nothing left to try; what it reported."""
    lines: list[str] = []

    def standing(peer: str) -> float:
        return 1.0 if peer == trusted else 0.0

    baseline = store.blobs.put(BASELINE.encode())
    adopter = Adopter(store, author, IncumbentTree(folder / track), track, lines.append)
    adopter.begin(baseline)
    contexts = Contexts(
        store, author, track, brief=folder / "program.md", claims=ClaimBook(store, author, track, standing),
        lessons=LessonBook(store, author, track, standing), steering=Steering(folder / f"{track}.wishes", lines.append),
        population=Population(store, author.id, track, baseline, standing=standing),
        run_sd=lambda: NOISE, report=lines.append,
    )  # fmt: skip
    proposer = Portfolio([Ideas(*ideas), Transfers()])
    ahead = Ahead(
        contexts, proposer, contexts.screen, random.Random, lines.append, outlook=contexts, call=at_once
    )  # fmt: skip
    bench = Workbench(store, author, Lane(), track, lines.append)
    research = Research(
        store, author, bench, adopter, ahead, SplitChoice("public", bytes(16)), lines.append, course=contexts
    )  # fmt: skip
    research.resume()
    contexts.resume(research.under_way)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ahead.run)
        while await research.step() is not None:
            pass
        nursery.cancel_scope.cancel()
    return lines


def confirm(store: Store, by: Author, track: str) -> None:
    """As another node of the track does it."""
    for signed in list(store.entries()):
        body = signed.statement.body
        if isinstance(body, Discovery) and body.track == track:
            measured = body.comparison.mean
            histories.state_measured(
                by, signed, "confirmed", [(3.0, 3.0 + measured - 0.01), (3.0, 3.0 + measured + 0.01)]
            )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    made = Home(tmp_path / "home")
    found_challenge(made, "test", [text], own_tracks([CPU_TRACK, GPU_TRACK], None))
    return made


def ask(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    monkeypatch.setattr(sys, "argv", ["waggle", "ledger", "transfers", "--home", str(home.path), *more])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    return capsys.readouterr().out


async def test_what_one_track_confirms_the_other_tries_both_ways_and_the_command_shows_it(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = home.store(home.challenge())
    me, peer, third = Author(store, home.key()), examples.author(store, 2), examples.author(store, 3)
    assert "nothing of one track" in ask(home, monkeypatch, capsys)

    await search(tmp_path, store, me, CPU_TRACK, third.id, "DEPTH", "RATE")
    confirm(store, third, CPU_TRACK)
    await search(tmp_path, store, peer, GPU_TRACK, third.id)  # the same texts as there, which this track has not tried
    assert len(queries.transfers(store)) == 2
    await search(tmp_path, store, peer, GPU_TRACK, third.id, "WIDTH")
    confirm(store, third, GPU_TRACK)
    await search(tmp_path, store, me, CPU_TRACK, third.id)

    bodies = [(signed, signed.statement.body) for signed in store.entries()]
    ids = {(body.hypothesis, body.track): signed.id for signed, body in bodies if isinstance(body, Discovery)}
    depth, rate, width = ids["DEPTH raised", CPU_TRACK], ids["RATE raised", CPU_TRACK], ids["WIDTH raised", GPU_TRACK]
    tried = [(body.source, body.track) for _, body in bodies if isinstance(body, Claim) and body.source]
    assert sorted(tried) == sorted([(depth, GPU_TRACK), (rate, GPU_TRACK), (width, CPU_TRACK)])  # and nothing goes back
    kept = {(body.source, body.track) for _, body in bodies if isinstance(body, Discovery) and body.source}
    assert kept == {(depth, GPU_TRACK), (width, CPU_TRACK)}

    said = json.loads(ask(home, monkeypatch, capsys, "--json"))
    counts = {
        (one["source_track"], one["track"]): (one["tried"], one["kept"], one["failed"]) for one in said["directions"]
    }
    assert counts == {(CPU_TRACK, GPU_TRACK): (2, 1, 0), (GPU_TRACK, CPU_TRACK): (1, 1, 0)}
    back = next(one for one in said["directions"] if one["track"] == CPU_TRACK)
    assert back["ratio"]["value"] == pytest.approx(0.5, abs=0.1)
    assert back["ratio"]["low"] < 0.5 < back["ratio"]["high"]
    shown = {one["discovery"]["id"]: one for one in said["discoveries"]}
    assert shown.keys() == {depth, rate, width}
    loss = fate_of(shown[rate])
    assert (loss["attempt"]["fate"], loss["ratio"]["value"] < 0) == ("discarded", True)
    assert fate_of(shown[depth])["attempt"]["fate"] == "kept"
    assert {place["hardware"] for place in loss["attempt"]["places"]} == {"a processor, x86_64"}

    text = ask(home, monkeypatch, capsys)
    assert re.search(rf"{CPU_TRACK} +{GPU_TRACK} +2 +1 +0 +50% \[", text)
    assert re.search(r"RATE raised(\n.*){1,4}discarded", text)
    assert "carried over 0." in text


def fate_of(one: dict[str, Any]) -> dict[str, Any]:
    (attempt,) = one["attempts"]
    assert isinstance(attempt, dict)
    return attempt
