"""Proposals by any command that edits a file: an agent's command line, or a script.

The command is started in a fresh folder with

    train.py      the parent; what is left in it is the proposal
    program.md    the operator's brief
    context.md    the task, the rules, and the state of the search as quoted data

and nothing else. It gets an environment of a few harmless variables, a scratch home, and those that the operator names.
bubblewrap gives it process ids of its own, so that it cannot read the node's environment out of /proc, and so that all
that it has started ends with it. It has a time limit, ends with status 0, leaves the other two files as they were and
adds none. The last line of what it prints is the hypothesis, if it prints any.

What this does not do: it is no sandbox. The command runs as the node's own user, with the network, and can read the
files that that user can read; peers' texts stand in context.md. So it has to be one that the operator trusts to edit
files only. Without bubblewrap (`unsafe_no_namespace`) it can also read the node's environment, keys included, and a
process that leaves both the group and the tree of its parents outlives the limit.
"""

import atexit
import contextlib
import os
import random
import resource
import selectors
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
from msgspec import Meta, Struct

from ledger.predicates import PROGRAM_BYTES_MAX
from trainer.proposers.answers import HYPOTHESIS_CHARACTERS_MAX, check_new
from trainer.proposers.briefing import Setting, program_text, state_text, task_text
from trainer.proposers.proposal import Context, Proposal, fingerprint
from trainer.proposers.quoting import Quoter, clean, clean_line
from trainer.proposers.spending import Charge, ProposalFailed, Spending, Tokens

BRIEF_BYTES_MAX = 64 * 1024
OUTPUT_BYTES_MAX = 64 * 1024  # that are kept, from the end; the rest is read and dropped
FILE_BYTES_MAX = 2**30  # that the command may write to one file, anywhere
ENTRIES_MAX = 1000  # in its folder, before we stop counting
TAIL_CHARACTERS_MAX = 300
END_TIMEOUT_S = 10.0
PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM")  # where the node has them; they hold no secret

TASK = """\
Change train.py in this folder, and no other file: one change with one reason, within the rules below. program.md has
the operator's wishes. When you are done, print one sentence that says what changes and why it should help, as the last
line of your output.
"""


class CommandFailed(ProposalFailed):
    """The command could not be started, ended with an error, or took too long."""


class ResultRefused(ProposalFailed):
    """What the command left behind is no proposal."""


class CommandOptions(Struct, frozen=True, kw_only=True):
    """What an operator sets."""

    argv: Annotated[tuple[Annotated[str, Meta(max_length=10_000)], ...], Meta(min_length=1, max_length=200)]
    time_limit_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    variables: Annotated[tuple[str, ...], Meta(max_length=64)] = ()  # names of those to pass on, besides PASSED
    usd_per_run: Annotated[float, Meta(ge=0, le=1e4)] = 0.0  # what a run is taken to cost; the most that it can
    unsafe_no_namespace: bool = False  # run it without bubblewrap: see the module's text


class _Ended(NamedTuple):
    status: int | None  # None: it was killed at the time limit
    output: bytes  # its end


class CommandProposer:
    """Runs a command for each proposal."""

    name = "command"

    def __init__(
        self,
        options: CommandOptions,
        setting: Setting,
        rules: Sequence[str],
        spending: Spending,
        environment: Mapping[str, str],
        quoting_key: bytes,
        *,
        secrets: Collection[str] = (),
        record: Callable[[Charge], None] = lambda charge: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`environment`: the node's own. `secrets`: the node's keys, which are not passed on whatever is named.

        `rules`, `record`, `now`, `quoting_key`: as for `AnthropicProposer`. Raises `ValueError` where a variable that
        the operator names holds such a key.
        """
        kept = {name: environment[name] for name in (*PASSED, *options.variables) if name in environment}
        for name, value in kept.items():
            if any(secret and secret in value for secret in secrets):
                raise ValueError(f"the variable {name} holds a key of the node: give the command one of its own")
        self._options, self._environment = options, kept
        self._hidden = [kept[name] for name in options.variables if len(kept.get(name, "")) >= 8]
        self._hidden += [secret for secret in secrets if secret]
        self._task = f"{TASK}\n{task_text(setting, rules)}"
        self._spending, self._record, self._now = spending, record, now
        self._quoter = Quoter(quoting_key)

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """What the command makes of the parent. `rng` is not used: the command's chance is its own.

        Raises `ProgramUnreadable`, `BudgetExhausted`, `CommandFailed`, `ResultRefused`, `EditUnappliable`,
        `AlreadyTried`, and `OSError` where no folder can be made or the charge cannot be recorded.
        """
        started = time.monotonic()
        fingerprint(context.program)
        held = self._spending.hold(self._options.argv[0][:200], Tokens(), self._now(), usd=self._options.usd_per_run)
        try:
            text, output = self._run(context)
            check_new(text, context.program, context.seen)
        except ProposalFailed as failure:
            failure.usd, failure.seconds = self._options.usd_per_run, time.monotonic() - started
            raise
        finally:
            charge = self._spending.charge(held, Tokens(), self._now(), exact=False, usd=self._options.usd_per_run)
            if charge.usd:
                self._record(charge)
        lines = [line for line in output.splitlines() if line.strip()]
        said = clean_line(lines[-1], HYPOTHESIS_CHARACTERS_MAX - 64) if lines else ""
        return Proposal(
            program=text,
            hypothesis=said or f"a change by the command {clean_line(Path(self._options.argv[0]).name, 40)}",
            proposer=self.name,
            operator=f"command:{clean_line(Path(self._options.argv[0]).name, 40)}",
            seconds=time.monotonic() - started,
            usd=self._options.usd_per_run,
            answers=bool(context.suggestion.strip()),
        )

    def _run(self, context: Context) -> tuple[str, str]:
        """The text that is left in train.py, and the end of what was printed."""
        state = f"{program_text(context, self._quoter)}\n\n{state_text(context, self._quoter)}\n"
        files = {
            "train.py": context.program.encode(),
            "program.md": context.brief.encode(errors="replace")[:BRIEF_BYTES_MAX],
            "context.md": f"{self._task}\n\n{state}".encode(errors="replace"),
        }
        root = Path(tempfile.mkdtemp(prefix="waggle-propose-"))
        try:
            work, scratch = root / "work", root / "scratch"
            work.mkdir()
            scratch.mkdir()
            for name, content in files.items():
                (work / name).write_bytes(content)
            folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # whatever its name comes to mean
            try:
                ended = self._execute(work, scratch)
                output = self._readable(ended.output)
                self._check_end(ended, output)
                left = _left(folder, files)
            finally:
                os.close(folder)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        try:
            text = left.decode()
        except UnicodeDecodeError:
            raise ResultRefused("train.py is not UTF-8 text") from None
        if any(hidden in text for hidden in self._hidden):
            raise ResultRefused("train.py holds the value of a variable that was passed to the command, or a key")
        return text, output

    def _execute(self, work: Path, scratch: Path) -> _Ended:
        environment = {"HOME": str(scratch), **self._environment, "TMPDIR": str(scratch), "PWD": str(work)}
        command = self._command(work)
        started: list[subprocess.Popen[bytes]] = []
        starting = threading.Lock()

        def stop() -> None:
            with starting:  # what is just being started runs already
                for process in started:
                    _kill(process)
            shutil.rmtree(work.parent, ignore_errors=True)

        with starting:
            atexit.register(stop)  # a node that stops does not wait for this thread
            try:
                process = subprocess.Popen(
                    command,
                    cwd=work,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a process group of its own, and no terminal
                )
            except (OSError, ValueError) as error:
                atexit.unregister(stop)
                why = error.strerror if isinstance(error, OSError) else "an argument has a NUL character"
                raise CommandFailed(f"{clean_line(self._options.argv[0], 100)} cannot be started: {why}") from None
            started.append(process)
        try:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
                resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
            return _attend(process, time.monotonic() + self._options.time_limit_s)
        finally:
            atexit.unregister(stop)
            _kill(process)

    def _command(self, work: Path) -> list[str]:
        first, *rest = self._options.argv
        path = shutil.which(first, path=self._environment.get("PATH"))
        if path is None:
            raise CommandFailed(f"{clean_line(first, 100)} cannot be started: no such program, or not to be executed")
        command = [str(Path(path).absolute()), *rest]
        if self._options.unsafe_no_namespace:
            return command
        wrapper = shutil.which("bwrap")
        if wrapper is None:
            raise CommandFailed("bwrap is missing: install bubblewrap, or set unsafe_no_namespace (docs/proposers.md)")
        view = ("--dev-bind", "/", "/", "--proc", "/proc", "--chdir", str(work))
        return [wrapper, *view, "--unshare-pid", "--die-with-parent", "--", *command]

    def _readable(self, output: bytes) -> str:
        text = output.decode(errors="replace")
        for hidden in self._hidden:
            text = text.replace(hidden, "[hidden]")
        return clean(text, OUTPUT_BYTES_MAX)

    def _check_end(self, ended: _Ended, output: str) -> None:
        tail = clean_line(output[-TAIL_CHARACTERS_MAX:], TAIL_CHARACTERS_MAX)
        said = f', and said last: "{tail}"' if tail else ""
        name = clean_line(Path(self._options.argv[0]).name, 40)
        if ended.status is None:
            raise CommandFailed(f"{name} did not end within {self._options.time_limit_s:g} s and was killed{said}")
        if ended.status != 0:
            raise CommandFailed(f"{name} ended with status {ended.status}{said}")


def _attend(process: subprocess.Popen[bytes], deadline: float) -> _Ended:
    """Read what the command prints until it ends or the deadline (monotonic seconds) has come."""
    assert process.stdout is not None, "it was started with a pipe"
    output = bytearray()
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                ready = {key.fileobj for key, _ in selector.select(max(0.0, left))} if left > 0 else set()
                if not ready:
                    return _Ended(None, bytes(output))
                if process.stdout in ready:
                    data = os.read(process.stdout.fileno(), 65536)
                    output += data
                    del output[:-OUTPUT_BYTES_MAX]
                    if not data:
                        selector.unregister(process.stdout)
                elif ended in ready:  # and nothing more to read: what children of it still print is not waited for
                    return _Ended(_status(process.pid), bytes(output))
    finally:
        os.close(ended)


def _status(pid: int) -> int:
    """The exit status (128 + n for a signal) of a child that has ended, which stays: its id names the group still."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None, "only WNOHANG gives None"
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, and what of its tree has left the group, and reap the first process."""
    strays: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        strays = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for stray in strays:
        with contextlib.suppress(psutil.Error):
            stray.kill()  # psutil looks whether the id still means the same process
    if process.stdout is not None:
        process.stdout.close()
    process.wait(END_TIMEOUT_S)


def _left(folder: int, files: Mapping[str, bytes]) -> bytes:
    """What train.py holds now, if nothing else has changed. `folder`: an open descriptor. Raises `ResultRefused`."""
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if entry.name not in files or count >= ENTRIES_MAX:
                raise ResultRefused(
                    f"the command left {clean_line(repr(entry.name), 100)}: it may change train.py only"
                )
    for name, content in files.items():
        if name != "train.py" and _content(folder, name, len(content)) != content:
            raise ResultRefused(f"the command changed {name}: it may change train.py only")
    left = _content(folder, "train.py", PROGRAM_BYTES_MAX)
    if len(left) > PROGRAM_BYTES_MAX:
        raise ResultRefused(f"train.py has more than {PROGRAM_BYTES_MAX} bytes")
    return left


def _content(folder: int, name: str, bytes_max: int) -> bytes:
    """A regular file with one name, up to a byte more than `bytes_max`; no link is followed."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise ResultRefused(f"{name} is gone or no regular file any more ({error.strerror})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise ResultRefused(f"{name} is no regular file with one name")
    with os.fdopen(descriptor, "rb") as file:
        return file.read(bytes_max + 1)
