"""The command line as a user meets it: real processes, real exit codes; bad input is one clear line and code 2."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import bpe
import examples
import pytest

from ledger.store import Store
from node.home import Home

PATIENCE_S = 90.0
WAGGLE = (sys.executable, "-m", "node.cli")
_HIDE = f'mount --bind /dev/null {shutil.which("bwrap")} && exec "$@"'
WITHOUT_BUBBLEWRAP = ("unshare", "--map-root-user", "--mount", "sh", "-c", _HIDE, "sh")


def waggle(*arguments: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, *WAGGLE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a refusal, which has to be short and without a traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4  # click's own usage errors take four
    return done.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(
        "".join(f"Line {number} of a small text, and {number * 7919} is a number.\n" for number in range(9000))
    )
    return file


@pytest.fixture
def home(tmp_path: Path, text: Path) -> Path:
    path = tmp_path / "A"
    done = waggle("init", "--home", path, "--corpus", text, "--budget", "0.5")
    assert done.returncode == 0, done.stderr
    return path


class Started:
    """A running `waggle start`, whose lines can be waited for."""

    def __init__(self, *arguments: str | Path, before: tuple[str, ...] = ()) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*before, *WAGGLE, "start", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.process.stdout is not None
        self._out = self.process.stdout
        self._rest = b""

    def line(self, *parts: str) -> str:
        """The first line, of those printed or still to come, that has all parts."""
        deadline = time.monotonic() + PATIENCE_S
        checked = 0
        while True:
            for line in self.lines[checked:]:
                if all(part in line for part in parts):
                    return line
            checked = len(self.lines)
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._out.fileno(), 65536) if ready else b""
            assert data, f"no line with {parts} in:\n" + "\n".join(self.lines)
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]

    def address(self) -> str:
        return self.line("listening on").split()[-1]

    def end(self, signal_number: int) -> int:
        if not self._out.closed:
            self.process.send_signal(signal_number)
            self._out.read()
            self._out.close()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def running() -> Iterator[list[Started]]:
    nodes: list[Started] = []
    yield nodes
    for node in nodes:
        node.end(signal.SIGKILL)


def test_two_terminals(home: Path, tmp_path: Path, running: list[Started]) -> None:
    """Start, join by address, look the peer's entry up; SIGKILL, start again, catch up; Ctrl-C ends in order."""
    one = Started("--home", home)
    running.append(one)
    other = tmp_path / "B"
    two = Started("--home", other, "--join", one.address())
    running.append(two)
    entry = two.line("received adoption").split()[3]
    shown = waggle("ledger", "show", entry, "--home", other, "--json")
    assert json.loads(shown.stdout)["predicateType"] == "urn:waggle:adoption:v1"

    two.line("incumbent", "seed 1:")
    assert two.end(signal.SIGKILL) == -signal.SIGKILL
    log = ("ledger", "log", "--home", other, "--json", "--limit", "1000")
    before = {line["id"] for line in json.loads(waggle(*log).stdout)}
    one.line("incumbent", "seed 2:")  # goes on while the other is away

    again = Started("--home", other)  # the peer is remembered
    running.append(again)
    again.line("peer synced")
    status = json.loads(waggle("status", "--home", other, "--json").stdout)
    assert status["running"]
    assert one.end(signal.SIGINT) == 0
    assert again.end(signal.SIGTERM) == 0
    assert "not running" in waggle("status", "--home", other).stdout
    after = {line["id"] for line in json.loads(waggle(*log).stdout)}
    assert before < after
    mine, theirs = Home(other), Home(home)
    ledger, source = mine.store(mine.challenge(), check=True), theirs.store(theirs.challenge(), check=True)
    kept = ledger.heads()
    assert all(kept[name].seq >= 0 for name in source.heads() if name[1] == "main")


def test_trials_ends_by_itself(home: Path) -> None:
    done = waggle("start", "--home", home, "--trials", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done: 2 trials run" in done.stdout
    again = waggle("start", "--home", home, "--trials", "1")  # what is in the ledger is not run again
    assert "seed 1:" not in again.stdout
    assert "seed 3:" in again.stdout


def test_a_peer_that_is_away_does_not_stop_a_node(home: Path, running: list[Started]) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{examples.author_id(2)}"
    node = Started("--home", home, "--join", nobody)
    running.append(node)
    node.line("dial failed")
    node.line("incumbent", "seed 1:")
    assert node.end(signal.SIGINT) == 0


def test_a_joiner_without_a_challenge_says_what_it_waits_for(tmp_path: Path, running: list[Started]) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{examples.author_id(2)}"
    node = Started("--home", tmp_path / "new", "--join", nobody)
    running.append(node)
    node.line("cannot join through", "/tcp/1/")
    node.line("trying again")
    assert node.end(signal.SIGINT) == 0


def test_an_observer_serves_the_ledger_without_a_sandbox(home: Path, tmp_path: Path, running: list[Started]) -> None:
    observer = Started("--home", home, "--observe", before=WITHOUT_BUBBLEWRAP)
    running.append(observer)
    observer.line("observing")
    joiner = Started("--home", tmp_path / "B", "--observe", "--join", observer.address())
    running.append(joiner)
    joiner.line("fetched the corpus")
    joiner.line("peer synced")
    assert json.loads(waggle("status", "--home", home, "--json").stdout)["entries"] == {}  # it states nothing
    assert joiner.end(signal.SIGINT) == 0
    assert observer.end(signal.SIGINT) == 0


def test_a_pinned_tokenizer_travels_with_the_challenge(text: Path, tmp_path: Path, running: list[Started]) -> None:
    file, home = tmp_path / "bpe.json", tmp_path / "A"
    file.write_bytes(bpe.byte_level())
    made = waggle("init", "--home", home, "--corpus", text, "--budget", "0.5", "--tokenizer", file)
    assert made.returncode == 0, made.stderr
    observer = Started("--home", home, "--observe")
    running.append(observer)
    joiner = Started("--home", tmp_path / "B", "--observe", "--join", observer.address())
    running.append(joiner)
    joiner.line("fetched the tokenizer")
    joiner.line("peer synced")
    program = tmp_path / "train.py"
    program.write_text(
        "import torch\n\n"
        "def build(vocab_size, seq_len):\n    assert vocab_size == 300\n    return torch.nn.Embedding(300, 300)\n\n"
        "def train(model, task):\n    assert task.tokens.dtype == torch.int32\n"
    )
    done = waggle("trial", program, "--home", tmp_path / "B", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text("{}")
    assert "tokenizers library" in refused(
        waggle("init", "--home", tmp_path / "C", "--corpus", text, "--tokenizer", file)
    )


def test_a_second_node_on_one_home(home: Path, running: list[Started]) -> None:
    node = Started("--home", home)
    running.append(node)
    node.address()
    assert "already running" in refused(waggle("start", "--home", home))


@pytest.mark.parametrize(
    "bad", ["nonsense", "/ip4/127.0.0.1/tcp/4141", "/ip4/127.0.0.1/udp/1/p2p/x", "/ip4/999.0.0.1/tcp/1"]
)
def test_an_address_that_cannot_be_joined(home: Path, bad: str) -> None:
    for place in (home, home.with_name("new")):  # the message shows a good one
        assert "/p2p/" in refused(waggle("start", "--home", place, "--join", bad))


def test_places_that_cannot_be_listened_on(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refused(waggle("start", "--home", home, "--listen", f"/ip4/127.0.0.1/tcp/{port}"))
    assert "/ip4/" in refused(waggle("start", "--home", home, "--listen", "here"))


def test_a_home_of_another_challenge(home: Path, text: Path, tmp_path: Path, running: list[Started]) -> None:
    other = tmp_path / "B"
    waggle("init", "--home", other, "--corpus", text, "--name", "other")
    node = Started("--home", home)
    running.append(node)
    assert "another swarm" in refused(waggle("start", "--home", other, "--join", node.address()))


def test_corpora_that_cannot_be_used(tmp_path: Path) -> None:
    empty, binary, folder = tmp_path / "empty.txt", tmp_path / "binary", tmp_path / "folder"
    empty.touch()
    binary.write_bytes(bytes(range(256)) * 100)
    folder.mkdir()
    for bad in (tmp_path / "absent", empty, binary, folder):
        message = refused(waggle("init", "--home", tmp_path / "home", "--corpus", bad))
        assert str(bad) in message
    assert not (tmp_path / "home" / "challenge.toml").exists()


def test_a_truncated_ledger(home: Path) -> None:
    ledger = home / "ledger.db"
    os.truncate(ledger, ledger.stat().st_size // 2)
    before = ledger.read_bytes()
    for command in (("start",), ("ledger", "log"), ("status",)):
        assert "ledger.db is damaged" in refused(waggle(*command, "--home", home))
    assert ledger.read_bytes() == before


def test_ids_that_name_no_entry_or_several(home: Path) -> None:
    place = Home(home)
    store: Store = place.store(place.challenge())
    by = examples.author(store)
    ids = sorted(examples.state_adoption(by, "a" * 64).id for _ in range(40))
    store.close()
    assert "no entry" in refused(waggle("ledger", "show", "bafkrei00000", "--home", home))
    assert "at least 8" in refused(waggle("ledger", "lineage", "baf", "--home", home))
    shared = next(a[:8] for a, b in pairwise(ids) if a[:8] == b[:8])
    assert "ambiguous" in refused(waggle("ledger", "show", shared, "--home", home))
    assert "not a discovery" in refused(waggle("ledger", "lineage", ids[0], "--home", home))


def test_a_place_that_cannot_be_written(text: Path) -> None:
    assert "/dev/null" in refused(waggle("init", "--home", "/dev/null/home", "--corpus", text))


def test_without_a_challenge(tmp_path: Path) -> None:
    for command in (("start",), ("status",), ("ledger", "log"), ("trial", __file__)):
        assert "waggle init" in refused(waggle(*command, "--home", tmp_path / "nowhere"))


def test_without_bubblewrap(home: Path) -> None:
    for command in (("start",), ("trial", __file__)):
        message = refused(waggle(*command, "--home", home, before=WITHOUT_BUBBLEWRAP))
        assert "install the package bubblewrap" in message
        assert command != ("start",) or "--observe" in message


def test_one_trial(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        "import torch\n\n"
        "def build(vocab_size, seq_len):\n    return torch.nn.Embedding(vocab_size, vocab_size)\n\n"
        "def train(model, task):\n    print('hello')\n"
    )
    done = waggle("trial", program, "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["status"] == "ok"
    assert 8 < measured["val_bpb"] < 9  # an untrained table of normal logits: worse than uniform, which is 8
    program.write_text("def build(v, t):\n    raise ValueError('no model')\n\ndef train(m, t): ...\n")
    done = waggle("trial", program, "--home", home)
    assert done.returncode == 3
    assert "no model" in done.stderr
    assert "no track" in refused(waggle("trial", program, "--home", home, "--track", "gpu"))
    assert refused(waggle("trial", tmp_path / "absent.py", "--home", home))
    assert refused(waggle("trial", program, "--home", home, "--seed", "-1"))


def test_tracks_of_a_challenge(text: Path, tmp_path: Path) -> None:
    both, home = ("--track", "gpu-5min", "--track", "cpu-quick"), tmp_path / "home"
    assert "several have their own" in refused(waggle("init", "--home", home, "--corpus", text, *both, "--budget", "1"))
    done = waggle("init", "--home", home, "--corpus", text, *both)
    assert done.returncode == 0, done.stderr
    assert "gpu-5min: cuda, 300 s of wall time" in done.stdout
    assert "no track 'tpu'; it has" in refused(waggle("start", "--home", home, "--track", "tpu"))
    if not Path("/dev/nvidiactl").exists():
        for command in (("start",), ("trial", __file__)):
            assert "needs an NVIDIA GPU" in refused(waggle(*command, "--home", home, "--track", "gpu-5min"))
