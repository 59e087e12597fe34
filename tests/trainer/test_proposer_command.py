"""The proposer that runs a command: real processes, honest ones and ones that try to get more than a file."""

import os
import random
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.proposers.answers import AlreadyTried, EditUnappliable
from trainer.proposers.briefing import Setting
from trainer.proposers.command import CommandFailed, CommandOptions, CommandProposer, ResultRefused
from trainer.proposers.proposal import Context, ProgramUnreadable, Proposal, fingerprint
from trainer.proposers.spending import BudgetExhausted, Caps, Charge, ProposalFailed, Spending

PROGRAM = "WIDTH = 64\n"
KEY = "sk-ant-planted-0123456789"
SETTING = Setting(
    challenge="a-challenge", track="cpu-quick", device="cpu", clock="cpu", budget_s=10.0, threads=1,
    memory_bytes=2**31, seq_len=128, vocab_size=256,
)  # fmt: skip
EDIT = "sed -i s/64/96/ train.py"

Propose = Callable[..., Proposal]


@pytest.fixture
def charges() -> list[Charge]:
    return []


@pytest.fixture
def propose(charges: list[Charge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Propose:
    """Runs a shell script as the command of a fresh proposer."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))

    def run(
        script: str,
        *,
        environment: dict[str, str] | None = None,
        argv: tuple[str, ...] = (),
        caps: Caps | None = None,
        context: dict[str, Any] | None = None,
        **options: Any,
    ) -> Proposal:
        proposer = CommandProposer(
            CommandOptions(**{"argv": argv or ("/bin/sh", "-c", script), "time_limit_s": 20.0, **options}),
            SETTING,
            ["import: of os"],
            Spending(caps or Caps()),
            {"PATH": os.environ["PATH"], **(environment or {})},
            b"0123456789abcdef",
            secrets=[KEY],
            record=charges.append,
            now=lambda: 0.0,
        )
        try:
            return proposer.propose(Context(**{"program": PROGRAM, **(context or {})}), random.Random(1))
        finally:
            assert list(folder.iterdir()) == []  # nothing stays behind, whatever happened

    return run


def test_what_is_left_in_the_file_is_the_proposal(propose: Propose, charges: list[Charge]) -> None:
    proposal = propose(f"{EDIT}; echo working; echo 'Wider fits more.'; echo", usd_per_run=0.25)
    assert proposal.program == "WIDTH = 96\n"
    assert proposal.hypothesis == "Wider fits more."
    assert (proposal.proposer, proposal.operator, proposal.usd) == ("command", "command:sh", 0.25)
    assert [(charge.usd, charge.exact) for charge in charges] == [(0.25, False)]


def test_a_silent_command_gets_a_hypothesis_that_names_it(propose: Propose, charges: list[Charge]) -> None:
    assert propose(EDIT).hypothesis == "a change by the command sh"
    assert charges == []  # a free run is no news


def test_an_editor_that_writes_a_new_file_is_fine(propose: Propose) -> None:
    assert propose("echo 'WIDTH = 9' > ../scratch/x && mv ../scratch/x train.py").program == "WIDTH = 9\n"


def test_it_is_given_three_files_and_what_they_say(propose: Propose, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    context = {"brief": "Try rates.\n", "lessons": ("never\x1b[2J </b>\nno",), "suggestion": "Use Muon."}
    assert propose(f"mkdir {kept}; cp -a . {kept}; {EDIT}", context=context).answers
    assert sorted(path.name for path in kept.iterdir()) == ["context.md", "program.md", "train.py"]
    assert (kept / "train.py").read_text() == PROGRAM
    assert (kept / "program.md").read_text() == "Try rates.\n"
    told = (kept / "context.md").read_text()
    assert told.startswith("Change train.py in this folder, and no other file")
    assert "1. never[2J </b> no\n</lessons-" in told
    assert "build(vocab_size, seq_len)" in told
    assert "- import: of os" in told
    assert "Use Muon." in told


def test_its_environment_is_what_was_named(propose: Propose, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    node = {"ANTHROPIC_API_KEY": KEY, "SECRET": "s3cret", "AGENT_TOKEN": "token-of-the-agent", "LANG": "C.UTF-8"}
    propose(f"env > {seen}; {EDIT}", environment=node, variables=("AGENT_TOKEN", "NOT_SET"))
    found = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert set(found) - {"SHLVL", "_", "OLDPWD"} == {"PATH", "LANG", "HOME", "TMPDIR", "PWD", "AGENT_TOKEN"}
    assert found["HOME"] == found["TMPDIR"] != os.environ.get("HOME")
    assert KEY not in seen.read_text()


def test_the_nodes_key_is_not_passed_on_even_if_it_is_named(propose: Propose) -> None:
    with pytest.raises(ValueError, match="the variable OTHER holds a key of the node") as caught:
        propose(EDIT, environment={"OTHER": f"Bearer {KEY}"}, variables=("OTHER",))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("script", ["echo $AGENT_TOKEN; exit 3", 'echo WIDTH=1 "# $AGENT_TOKEN" > train.py'])
def test_what_was_passed_is_not_told(propose: Propose, script: str) -> None:
    with pytest.raises(ProposalFailed, match=r"hidden|holds the value") as caught:
        propose(script, environment={"AGENT_TOKEN": "token-of-the-agent"}, variables=("AGENT_TOKEN",))
    assert "token-of-the-agent" not in str(caught.value)


def test_a_hypothesis_does_not_tell_what_was_passed(propose: Propose) -> None:
    environment = {"AGENT_TOKEN": "token-of-the-agent"}
    proposal = propose(f"{EDIT}; echo it is $AGENT_TOKEN", environment=environment, variables=("AGENT_TOKEN",))
    assert proposal.hypothesis == "it is [hidden]"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (f"{EDIT}; touch notes.txt", r"left 'notes\.txt': it may change train\.py only"),
        (f"{EDIT}; mkdir -p .agent/logs", r"left '\.agent'"),
        (f"{EDIT}; touch \"$(printf 'a\\033[2J')\"", r"left 'a\\x1b\[2J'"),
        (f"{EDIT}; echo more >> context.md", r"changed context\.md"),
        (f"{EDIT}; echo more > program.md", r"changed program\.md"),
        (f"{EDIT}; rm program.md", r"program\.md is gone"),
        ("rm train.py", r"train\.py is gone"),
        ("rm train.py; mkdir train.py", r"train\.py is no regular file"),
        ("rm train.py; mkfifo train.py", r"train\.py is no regular file"),
        ("ln -sf /etc/hostname train.py", r"train\.py is gone or no regular file any more"),
        ("echo 'A = 1' > ../scratch/x; ln -f ../scratch/x train.py", r"no regular file with one name"),
        ("head -c 70000 /dev/zero > train.py", r"more than 65536 bytes"),
        ("printf '\\377' > train.py", r"not UTF-8"),
        ("cd ..; mv work real; ln -s /etc work", r"^$"),
    ],
)  # fmt: skip
def test_anything_else_that_it_leaves_is_refused_by_name(propose: Propose, script: str, message: str) -> None:
    if message == "^$":  # the folder under another name is still the one that is read: nothing was changed in it
        with pytest.raises(AlreadyTried):
            propose(script)
    else:
        with pytest.raises(ResultRefused, match=message):
            propose(script)


@pytest.mark.parametrize(
    ("script", "expected", "message"),
    [
        ("true", AlreadyTried, "same as its parent"),
        ("echo '# wide' >> train.py", AlreadyTried, "same as its parent"),
        ("echo 'def (' > train.py", EditUnappliable, "cannot be read"),
        ("echo out of credit >&2; exit 7", CommandFailed, 'sh ended with status 7, and said last: "out of credit"'),
        ("kill -9 $$", CommandFailed, "status 137"),
    ],
)
def test_a_run_that_gives_nothing(
    propose: Propose, charges: list[Charge], script: str, expected: type[ProposalFailed], message: str
) -> None:
    with pytest.raises(expected, match=message) as caught:
        propose(script, usd_per_run=0.25)
    assert caught.value.usd == charges[0].usd == 0.25
    assert caught.value.seconds > 0


def test_a_change_that_was_tried_and_a_parent_that_is_none(propose: Propose) -> None:
    with pytest.raises(AlreadyTried, match="tried before"):
        propose(EDIT, context={"seen": {fingerprint("WIDTH = 96\n")}})
    with pytest.raises(ProgramUnreadable):
        propose(EDIT, context={"program": "def ("})


def test_a_command_that_cannot_be_started_is_named(propose: Propose) -> None:
    with pytest.raises(CommandFailed, match="/no/such/agent cannot be started: no such program"):
        propose("", argv=("/no/such/agent", "-p"))
    with pytest.raises(CommandFailed, match="NUL"):
        propose("", argv=("/bin/sh", "a\0b"))


def test_the_arguments_are_a_list_and_no_shell_reads_them(propose: Propose, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = "import sys; open('train.py', 'w').write('A = ' + repr(sys.argv[1]))"
    argument = f"$(touch {shlex.quote(str(trace))}); x"
    assert propose("", argv=(sys.executable, "-c", code, argument)).program == f"A = {argument!r}"
    assert not trace.exists()


@pytest.mark.parametrize("unsafe", [False, True])
def test_at_the_time_limit_everything_it_started_is_killed(propose: Propose, unsafe: bool) -> None:
    """Three processes hold one connection: the command, a child in its group, one in a session of its own. The end of
    the connection says that all are gone."""
    code = """
import os, socket, sys, time
line = socket.socket(socket.AF_UNIX)
line.connect("\\0" + sys.argv[1])
for leaves in (False, True):
    if os.fork() == 0:
        if leaves:
            os.setsid()
        line.send(b"x")
        time.sleep(600)
line.send(b"x")
print("thinking", flush=True)
time.sleep(600)
"""
    name = f"waggle-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)
        with pytest.raises(CommandFailed, match='within 1 s and was killed, and said last: "thinking"'):
            propose("", argv=(sys.executable, "-c", code, name), time_limit_s=1.0, unsafe_no_namespace=unsafe)
        line, _ = listener.accept()
    received = b""
    with line:
        line.settimeout(10.0)
        while data := line.recv(16):
            received += data
    assert received == b"xxx"


MEANWHILE = """
class Popen(subprocess.Popen):  # the node ends after the command runs and before its thread knows
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        threading.main_thread().join()
subprocess.Popen = Popen
"""


@pytest.mark.parametrize("meanwhile", ["", MEANWHILE], ids=["attended", "starting"])
@pytest.mark.parametrize("unsafe", [False, True])
def test_a_node_that_ends_takes_the_command_and_its_folder_with_it(
    tmp_path: Path, unsafe: bool, meanwhile: str
) -> None:
    """Descriptor 3 of the command is open until it is gone."""
    alive, temporary = tmp_path / "alive", tmp_path / "temporary"
    os.mkfifo(alive)
    temporary.mkdir()
    code = f"""
import os, random, subprocess, sys, threading
{meanwhile}
from trainer.proposers.briefing import Setting
from trainer.proposers.command import CommandOptions, CommandProposer
from trainer.proposers.proposal import Context
from trainer.proposers.spending import Caps, Spending

argv = ("/bin/sh", "-c", "exec 3> {alive}; echo begun >&3; exec sleep 600")
options = CommandOptions(argv=argv, unsafe_no_namespace={unsafe})
proposer = CommandProposer(options, {SETTING!r}, [], Spending(Caps()), os.environ, bytes(16))
propose = lambda: proposer.propose(Context(program="WIDTH = 64"), random.Random(1))
threading.Thread(target=propose, daemon=True).start()
sys.stdin.read()
"""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with (
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment) as node,
        alive.open() as line,
    ):
        assert line.readline() == "begun\n"
        assert node.stdin is not None
        node.stdin.close()
        assert node.wait(20) == 0
        assert line.read() == ""
    assert list(temporary.iterdir()) == []


def test_a_process_that_leaves_its_group_and_its_parents_is_killed(propose: Propose) -> None:
    """It is a grandchild in a session of its own, whose parent has ended: only the namespace still holds it."""
    code = """
import os, socket, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        line = socket.socket(socket.AF_UNIX)
        line.connect("\\0" + sys.argv[1])
        line.send(b"x")
        time.sleep(600)
    os._exit(0)
os.wait()
open("train.py", "w").write("WIDTH = 96")
"""
    name = f"waggle-stray-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)
        proposing = threading.Thread(target=propose, args=("",), kwargs={"argv": (sys.executable, "-c", code, name)})
        proposing.start()
        listener.settimeout(20.0)
        line, _ = listener.accept()
        proposing.join()
    with line:
        line.settimeout(10.0)
        while line.recv(16):
            pass


def test_the_nodes_own_environment_is_out_of_reach(propose: Propose, tmp_path: Path) -> None:
    """A process of this user, as the node is one, holds the key in its environment; /proc would show it."""
    seen = tmp_path / "seen"
    script = f"cat /proc/[0-9]*/environ > {seen} 2> /dev/null; {EDIT}"
    with subprocess.Popen(["/bin/cat"], env={"ANTHROPIC_API_KEY": KEY}, stdin=subprocess.PIPE) as node:
        propose(script, unsafe_no_namespace=True)
        assert KEY in seen.read_text(errors="replace")
        propose(script)
        assert KEY not in seen.read_text(errors="replace")
        assert node.poll() is None
        node.communicate()


def test_output_is_bounded_and_does_not_stop_it(propose: Propose) -> None:
    assert propose(f"head -c 3000000 /dev/zero; {EDIT}; echo; echo 'The end.'").hypothesis == "The end."


def test_a_child_that_keeps_the_pipe_is_not_waited_for(propose: Propose) -> None:
    assert propose(f"{EDIT}; sleep 600 & echo 'At once.'").hypothesis == "At once."


def test_the_cap_of_the_day_holds(propose: Propose, charges: list[Charge]) -> None:
    with pytest.raises(BudgetExhausted):
        propose(EDIT, usd_per_run=2.0, caps=Caps(usd_per_day=1.0))
    assert charges == []
