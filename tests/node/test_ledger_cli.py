"""`waggle ledger …` as a user meets it: answers to people and machines, one clear line and code 2 for what is wrong."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import examples
import histories
import pytest

from ledger.store import Store
from node import cli
from node.home import Home, found_challenge
from node.tracks import CPU_TRACK, own_tracks

PATIENCE_S = 60.0


class Told(NamedTuple):
    """A home with a small history."""

    home: Path
    store: Store
    baseline: str
    first: str  # discovery on the baseline, confirmed
    second: str  # on the first, merely claimed
    said: str  # the attestation of the first
    newer: str  # of a type that this version does not know


@pytest.fixture
def told(tmp_path: Path) -> Told:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    home = Home(tmp_path / "home")
    challenge = found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    store, baseline = home.store(challenge), challenge.tracks[CPU_TRACK].baseline
    one, two = examples.author(store, 1), examples.author(store, 2)
    child = store.blobs.put(store.blobs.get(baseline) + b"EXTRA = 1\n")
    first = histories.state_hypothesis(one, baseline, child, "an \x1b[31mextra\x9b line", 0.3)
    said = histories.state_measured(two, first, "confirmed", [(3.0, 2.8)] * 2)
    examples.state_adoption(two, child, first)
    second = histories.state_hypothesis(two, child, "d" * 64, "a line less", 0.1)
    newer = histories.state_newer(2, store, second)
    return Told(home.path, store, baseline, first.id, second.id, said.id, newer.id)


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        assert self.out.isascii()
        return json.loads(self.out)


class Waggle:
    """`waggle ledger ARGUMENTS --home HOME` in this process."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._monkeypatch, self._capsys = home, monkeypatch, capsys

    def __call__(self, *arguments: str) -> Answer:
        self._monkeypatch.setattr(sys, "argv", ["waggle", "ledger", *arguments, "--home", str(self._home)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = self._capsys.readouterr()
        assert not set(shown.out + shown.err) & {"\x1b", "\x9b", "\x07"}
        return Answer(int(ended.value.code or 0), shown.out, shown.err)

    def refused(self, *arguments: str) -> str:
        answer = self(*arguments)
        assert answer.code == 2, answer.out
        assert len(answer.err.splitlines()) <= 4  # click's own usage errors take four
        return answer.err


@pytest.fixture
def waggle(told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Waggle:
    return Waggle(told.home, monkeypatch, capsys)


def test_the_log_for_people_and_machines(told: Told, waggle: Waggle) -> None:
    answer = waggle("log", "--limit", "3")
    assert answer.code == 0
    header, *lines = answer.out.splitlines()
    assert header.split() == ["id", "author", "clock", "time", "kind", "what"]
    assert [line.split()[0] for line in lines[1:]] == [told.second[:16], told.newer[:16]]
    assert "of a type that this version does not know" in lines[-1]
    ids = [line["id"] for line in waggle("log", "--limit", "3", "--json").json()]
    assert [one[:16] for one in ids] == [line.split()[0] for line in lines]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["--kind", "discovery"], ["first", "second"]),
        (["--kind", "discovery", "--author", examples.author_id(2)[-8:]], ["second"]),
        (["--kind", "urn:waggle:dream:v1"], ["newer"]),
        (["--verdict", "confirmed"], ["said"]),
        (["--better-than", "-0.15"], ["first", "said"]),
        (["--worse-than", "-0.15"], ["second"]),
        (["--status", "crash"], []),
        (["--subject", "d" * 10, "--kind", "discovery"], ["second"]),
        (["--kind", "discovery", "--since", "2026-01-01", "--until", "2026-01-01T02:00:00+02:00"], ["first", "second"]),
        (["--since", "2026-01-01T00:00:01Z"], []),
    ],
)
def test_conditions_of_the_log(told: Told, waggle: Waggle, conditions: list[str], expected: list[str]) -> None:
    found = [line["id"] for line in waggle("log", "--json", *conditions).json()]
    assert found == [getattr(told, name) for name in expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["log", "--since", "yesterday"], "2026-01-31T12:00:00Z"),
        (["log", "--until", "0001-01-01T00:00:00+14:00"], "is not a time"),
        (["log", "--better-than", "nan"], "finite"),
        (["log", "--subject", "XYZ"], "SHA-256"),
        (["log", "--kind", "dream"], "whole URN"),
        (["log", "--status", "fine"], "'ok'"),
        (["log", "--status", "ok", "--kind", "discovery"], "--status is of a kind trial"),
        (["log", "--author", "zzzzzzz"], "no author"),
        (["log", "--author", "12D3KooW"], "ambiguous"),
        (["show", "bafkreiaaaaaaaaaa"], "no entry"),
        (["show", "bafkrei"], "at least 8"),
        (["show", "\udcff" * 9], "no entry"),
        (["lineage", "bafkreiaaaaaaaaaa"], "no entry"),
        (["diff", "0" * 9, "1" * 9], "no program"),
        (["diff", "bafkreiaaaaaaaaaa", "bafkreiaaaaaaaaaa"], "no entry"),
        (["best", "--track", "\x1b[2J"], "has no track"),
        (["search"], "WORDS"),
    ],
)
def test_what_cannot_be_asked(waggle: Waggle, arguments: list[str], message: str) -> None:
    assert message in waggle.refused(*arguments)


def test_what_is_no_discovery_has_no_lineage(told: Told, waggle: Waggle) -> None:
    assert "not a discovery" in waggle.refused("lineage", told.said)


def test_show_a_discovery(told: Told, waggle: Waggle) -> None:
    text = waggle("show", told.first[:16]).out
    assert "+EXTRA = 1" in text
    assert "confirmed    " + examples.author_id(2)[-8:] in text
    account = waggle("show", told.first[:16], "--json").json()
    assert account["discovery"]["id"] == told.first
    assert account["discovery"]["confirmed"] == 1
    assert [said["id"] for said in account["attestations"]] == [told.said]
    assert account["effects"][0]["median"] == pytest.approx(-0.2)
    assert account["lineage"] == {"ancestors": [], "descendants": [told.second]}
    assert account["statement"]["predicateType"] == "urn:waggle:discovery:v1"
    assert account["comparison"] == account["statement"]["predicate"]["comparison"]


def test_show_another_entry(told: Told, waggle: Waggle) -> None:
    text = waggle("show", told.newer).out
    assert "of a type that this version does not know" in text
    assert waggle("show", told.said, "--json").json()["predicate"]["verdict"] == "confirmed"


def test_lineage_in_every_form(told: Told, waggle: Waggle) -> None:
    lines = waggle("lineage", told.first).out.splitlines()
    assert lines[0] == f"baseline {told.baseline[:12]}"
    assert [line.strip("└─ ")[:16] for line in lines[1:]] == [told.first[:16], told.second[:16]]
    found = waggle("lineage", told.second, "--json").json()
    assert (found["origin"], found["origin_is_baseline"]) == (told.baseline, True)
    assert [step["discovery"]["id"] for step in found["ancestors"]] == [told.first, told.second]
    assert [(step["depth"], step["discovery"]["id"]) for step in found["descendants"]] == [(0, told.second)]
    assert waggle("lineage", told.second, "--format", "json").json() == found
    assert waggle("lineage", told.first, "--format", "dot").out.startswith("digraph lineage {\n  n0")
    assert waggle("lineage", told.first, "--format", "mermaid").out.startswith("flowchart TD\n")


def test_the_difference_of_programs(told: Told, waggle: Waggle) -> None:
    by_id, by_digest = waggle("diff", told.baseline[:12], told.first), waggle("diff", told.first, told.baseline)
    assert by_id.out.splitlines()[-1] == "+EXTRA = 1"
    assert by_digest.out.splitlines()[-1] == "-EXTRA = 1"
    found = waggle("diff", told.baseline, told.first, "--json").json()
    assert found["a"] == told.baseline
    assert found["diff"].endswith("\n+EXTRA = 1")
    assert "has not arrived" in waggle.refused("diff", told.first, told.second)


def test_search_best_stats_and_peers(told: Told, waggle: Waggle) -> None:
    (hit,) = waggle("search", "line", "less", "--json").json()
    assert (hit["id"], hit["snippet"]) == (told.second, "a line less")
    assert told.second[:16] in waggle("search", "less").out
    assert "no entry" in waggle("search", "nowhere").out
    best = waggle("best", "--json").json()
    assert [(one["discovery"]["id"], one["verified"]) for one in best[CPU_TRACK]] == [
        (told.first, True),
        (told.second, False),
    ]
    assert waggle("best", "--track", CPU_TRACK, "--json").json() == best
    verified, claimed = waggle("best").out.split("merely claimed")
    assert told.first[:16] in verified
    assert told.second[:16] in claimed
    assert waggle("stats", "--json").json()["confirmed"] == 1
    assert "2 claimed, 1 confirmed" in waggle("stats").out
    authors = waggle("peers", "--json").json()["authors"]
    assert {one["author"] for one in authors} == {examples.author_id(1), examples.author_id(2)}
    assert "a processor, x86_64" in waggle("peers").out


QUESTIONS = ["log", "show", "lineage", "diff", "search", "best", "stats", "peers"]


def test_every_question_is_answered_while_another_process_writes(told: Told, waggle: Waggle) -> None:
    arguments = {"show": [told.first], "lineage": [told.first], "diff": [told.first, told.baseline], "search": ["line"]}
    assert set(QUESTIONS) <= set(cli.ledger.commands)
    reader = Store.open(told.store.path)
    before = reader.db.execute("PRAGMA data_version").fetchone()
    with told.store.batch():  # holds the writer's lock
        for question in QUESTIONS:
            assert waggle(question, *arguments.get(question, [])).code == 0
            assert waggle(question, *arguments.get(question, []), "--json").json()
    assert reader.db.execute("PRAGMA data_version").fetchone() == before  # nothing was written
    reader.close()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_followed_log_has_the_news_and_ends_at_ctrl_c(told: Told, form: str) -> None:
    command = [sys.executable, "-m", "node.cli", "ledger", "log", "--follow", "--limit", "1", "--kind", "adoption"]
    command += ["--home", str(told.home), *(["--json"] if form == "json" else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    limit = threading.Timer(PATIENCE_S, process.kill)
    limit.start()
    try:
        heard = [process.stdout.readline()]
        for number in (3, 4):
            examples.state_adoption(examples.author(told.store, number), "a" * 64)
            heard.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        limit.cancel()
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, "", "")
    if form == "json":
        authors = [json.loads(line)["author"] for line in heard]
        assert authors[1:] == [examples.author_id(3), examples.author_id(4)]
    else:
        assert [line.split()[1] for line in heard[1:]] == [examples.author_id(3)[-8:], examples.author_id(4)[-8:]]
