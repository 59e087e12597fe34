"""One sandboxed process tree: its pipes, its limits, its end.

Everything happens in `read`, one loop over the pipes with a deadline: what is queued is written as far as the program
takes it, the log is drained, the tree is measured every 50 ms and killed as a whole once it is over a limit. So
neither a program that does not read, nor one that floods its log, nor one that says nothing can hold the caller for
longer than the wall limit.

Three pipes: stdin, one for stdout and stderr together (the log), and one for the answer, on a descriptor whose number
is the last argument of the command. The answer has a pipe of its own because bubblewrap's processes keep the standard
three open as long as they live, so that the end of an answer on stdout would not show before the end of the sandbox.

The caller's thread has to outlive the sandbox: `--die-with-parent` follows the *thread* that spawned it.
Not this module's business: what the bytes mean (trial.py), and the command line (command.py).
"""

import contextlib
import fcntl
import os
import select
import selectors
import signal
import subprocess
import time
import unicodedata
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil

from trainer.sandbox.command import TMPFS_BYTES, Limits, SandboxUnavailable, python_command, python_prefixes
from trainer.sandbox.meter import TreeMeter
from trainer.sandbox.scope import Scope, tier
from trainer.sandbox.syscalls import filter_descriptor

SAMPLE_INTERVAL_S = 0.05
SAMPLING_SHARE_MAX = 0.05  # of wall time; on a machine with thousands of processes one sample takes milliseconds
FILES_MAX = 2**16  # in the writable places; each takes about a kilobyte of the kernel's memory
SOCKETS_MAX = 1024  # each buffers up to 208 KiB in the kernel (net.core.wmem_default)
PIPE_BYTES = 2**20
READ_BYTES_MAX = 2**20
LOG_BYTES_MAX = 64 * 1024
LOG_LINES_MAX = 50
LOG_LINE_CHARACTERS_MAX = 400
LOG_CHARACTERS_MAX = 7000
END_TIMEOUT_S = 10.0


class LimitExceeded(Exception):
    """The tree passed a limit and was killed."""

    def __init__(self, limit: Literal["wall", "cpu", "memory"], reason: str) -> None:
        super().__init__(reason)
        self.limit = limit


class Sandbox:
    """A Python process in a sandbox, from construction to the end of the `with` block, where the whole tree is killed.

    Raises `SandboxUnavailable` if it cannot be spawned. Limits over the tree hold from `limit` on.
    """

    def __init__(self, arguments: Sequence[str], limits: Limits, files: Mapping[Path, str]) -> None:
        system_calls = filter_descriptor()
        try:
            command = python_command(arguments, limits, files, system_calls)
            self._scope = Scope(limits, tier())
        except OSError as error:
            os.close(system_calls)
            raise SandboxUnavailable(f"the control group of a sandbox cannot be made: {error}") from error
        except BaseException:
            os.close(system_calls)
            raise
        child_stdin, self._stdin = os.pipe()
        self._output, child_output = os.pipe()
        self._answer, child_answer = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*self._scope.prefix, *command, str(child_answer)],
                stdin=child_stdin,
                stdout=child_output,
                stderr=child_output,
                pass_fds=(child_answer, system_calls),
                env=self._scope.environment,
                cwd="/",
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
        except OSError as error:
            for descriptor in (self._stdin, self._output, self._answer):
                os.close(descriptor)
            self._scope.close()
            raise SandboxUnavailable(f"{command[0]} cannot be started: {error}") from error
        finally:
            for descriptor in (child_stdin, child_output, child_answer, system_calls):
                os.close(descriptor)
        for descriptor in (self._stdin, self._output, self._answer):
            os.set_blocking(descriptor, False)
            with contextlib.suppress(PermissionError):  # over the user's allowance for pipes: only slower
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._stdin_open = True
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answer, selectors.EVENT_READ)
        self._selector.register(self._output, selectors.EVENT_READ)
        self._outgoing: deque[memoryview] = deque()
        self._log = bytearray()
        self._firsts: dict[int, int] = {}  # process id of a direct child: descriptor that stands for it
        self._meter = TreeMeter(self._process.pid, tuple(TMPFS_BYTES))
        self._next_sample = 0.0
        self._cpu_base_s = 0.0
        self._cpu_limit_s = float("inf")
        self._memory_limit_bytes = limits.memory_bytes
        self._deadline = float("inf")
        self._wall_limit_s = float("inf")
        self._limited_at = time.monotonic()
        self.cpu_s = 0.0  # from `limit` to the last sample
        self.wall_s = 0.0  # likewise
        self.peak_memory_bytes = 0  # resident, summed over the tree

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the tree and let go of everything. Safe to call again."""
        if self._closed:
            return
        self.kill()
        self._closed = True
        self._close_stdin()
        self._selector.close()
        self._meter.close()
        self._scope.close()
        os.close(self._output)
        os.close(self._answer)

    def alive(self) -> bool:
        """Whether its first process still runs."""
        return not self._closed and self._process.poll() is None

    def counts_inside(self) -> bool:
        """Whether what the program writes to its tmpfs, and its sockets, count against its memory."""
        return self._meter.sees_inside()

    def limit(self, *, wall_s: float, cpu_s: float = float("inf")) -> None:
        """From now on, the tree may use `wall_s` and `cpu_s` more. What it used so far counts no longer."""
        self._find_firsts()
        self._cpu_base_s = self._meter.sample().cpu_s
        self._cpu_limit_s = cpu_s
        self.cpu_s = self.wall_s = 0.0
        self._limited_at = time.monotonic()
        self._wall_limit_s = wall_s
        self._deadline = self._limited_at + wall_s

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        """Queue bytes for the program's stdin; `read` delivers them."""
        self._outgoing.extend(memoryview(part) for part in parts if len(part))
        if self._outgoing and self._stdin not in self._selector.get_map() and self._stdin_open:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def read(self, bytes_max: int) -> bytes:
        """The next 1 to `bytes_max` bytes of the program's answer; `b""` once it has ended.

        Raises `LimitExceeded`, with the tree already dead.
        """
        while self._answer in self._selector.get_map():
            now = time.monotonic()
            if now >= self._next_sample:
                self.measure()
            if now >= self._deadline:
                self.wall_s = now - self._limited_at
                self.kill()
                raise LimitExceeded("wall", f"no end after {self._wall_limit_s:.1f} s of wall time")
            output = self._transfer(min(self._deadline, self._next_sample) - now, bytes_max)
            if output is not None:
                return output
        return b""

    def measure(self) -> None:
        """Sample what the tree uses. Raises `LimitExceeded`, with the tree already dead."""
        started = time.monotonic()
        usage = self._meter.sample()
        self.cpu_s = max(0.0, usage.cpu_s - self._cpu_base_s)
        self.wall_s = started - self._limited_at
        self.peak_memory_bytes = max(self.peak_memory_bytes, usage.resident_bytes)
        if self.cpu_s > self._cpu_limit_s:
            self.kill()
            raise LimitExceeded("cpu", f"{self.cpu_s:.2f} CPU seconds used where {self._cpu_limit_s:.2f} end it")
        limit = self._memory_limit_bytes
        if (
            usage.resident_bytes + usage.file_bytes > limit
            and (used := self._meter.exact_bytes(usage.file_bytes)) > limit
        ):
            self.kill()
            raise LimitExceeded("memory", f"{used >> 20} MiB in use where {limit >> 20} MiB are allowed")
        if usage.files > FILES_MAX:
            self.kill()
            raise LimitExceeded("memory", f"{usage.files} files in its tmpfs where {FILES_MAX} are allowed")
        if usage.sockets > SOCKETS_MAX:
            self.kill()
            raise LimitExceeded("memory", f"{usage.sockets} sockets where {SOCKETS_MAX} are allowed")
        finished = time.monotonic()
        self._next_sample = finished + max(SAMPLE_INTERVAL_S, (finished - started) / SAMPLING_SHARE_MAX)

    def end(self) -> int | None:
        """Close the program's stdin, take the rest of its log, and return its exit status (128 + n for a signal).

        None if it did not end in time by itself. The tree is dead afterwards.
        """
        self._outgoing.clear()
        self._close_stdin()
        deadline = time.monotonic() + END_TIMEOUT_S
        while self._output in self._selector.get_map() and (left := deadline - time.monotonic()) > 0:
            self._transfer(left, READ_BYTES_MAX)
        try:
            return self._process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the whole tree and wait until it is gone. Safe to call again.

        Killing the first process of a PID namespace ends all others in it, and it is not gone before they are.
        """
        self._find_firsts()
        for first in self._firsts.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            ended, _, _ = select.select([first], [], [], END_TIMEOUT_S)
            os.close(first)
            if not ended:  # only a process stuck in the kernel outlives SIGKILL
                raise RuntimeError(
                    f"sandbox of process {self._process.pid} does not die: look for a hung disk or driver"
                )
        if self._firsts:  # bubblewrap now reaps its child and ends; killed earlier, it would leave that to init
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)
        self._firsts.clear()
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        """The end of what the program wrote to stdout and stderr: at most 50 lines, no control characters.

        It goes into signed statements, so the places where this machine keeps Python are left out of it.
        """
        text = self._log.decode(errors="replace")
        for prefix in python_prefixes():
            text = text.replace(f"{prefix}/", "")
        lines = [line[:LOG_LINE_CHARACTERS_MAX] for line in text.splitlines()[-LOG_LINES_MAX:]]
        clean = "\n".join("".join(filter(_is_printable, line)) for line in lines)
        return clean[-LOG_CHARACTERS_MAX:]

    def _find_firsts(self) -> None:
        """Take hold of the namespace's first process while its parent lives: later a process id may name another."""
        if self._process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                for child in psutil.Process(self._process.pid).children():
                    if child.pid not in self._firsts:
                        self._firsts[child.pid] = os.pidfd_open(child.pid)

    def _transfer(self, timeout_s: float, bytes_max: int) -> bytes | None:
        """Wait for the pipes at most `timeout_s`, move what can be moved; output of the program if there was any."""
        output: bytes | None = None
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            if key.fd == self._stdin:
                self._write()
            elif key.fd == self._output:
                self._read_log()
            else:
                output = os.read(self._answer, min(bytes_max, READ_BYTES_MAX))
                if not output:
                    self._selector.unregister(self._answer)
        return output

    def _write(self) -> None:
        try:
            written = os.write(self._stdin, self._outgoing[0])
        except BrokenPipeError:  # it does not want to read; what follows from that shows in what it answers
            self._outgoing.clear()
            self._close_stdin()
            return
        rest = self._outgoing.popleft()[written:]
        if rest:
            self._outgoing.appendleft(rest)
        if not self._outgoing:
            self._selector.unregister(self._stdin)

    def _read_log(self) -> None:
        data = os.read(self._output, LOG_BYTES_MAX)
        if not data:
            self._selector.unregister(self._output)
        self._log += data
        del self._log[:-LOG_BYTES_MAX]

    def _close_stdin(self) -> None:
        if self._stdin in self._selector.get_map():
            self._selector.unregister(self._stdin)
        if self._stdin_open:
            os.close(self._stdin)
            self._stdin_open = False


def _is_printable(character: str) -> bool:
    """Not a control, format (such as direction overrides) or unassigned character."""
    return character == "\t" or not unicodedata.category(character).startswith("C")
