"""The charges of a node's proposers in a file, so that a restart does not begin the day's budget anew.

One JSON object a line, appended and made durable before the proposal is used. A line that cannot be read counts as
nothing only if it is the last one and has no end, which is what a crash leaves; any other is somebody's to look at.
"""

import os
import threading
from pathlib import Path

import msgspec

from trainer.proposers.proposal import ProposerError
from trainer.proposers.spending import DAY_S, Charge

FILE_BYTES_MAX = 64 * 2**20  # some hundred thousand charges


class AccountsUnreadable(ProposerError):
    """The file of charges is damaged: without it no cap can be kept. The message says where and what to do."""


class Accounts:
    """The file of charges of one node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # of threads of this node; only one node runs on a home

    def since_yesterday(self, now: float) -> list[Charge]:
        """Charges of the UTC day of `now` (seconds since 1970) and the one before. Raises `AccountsUnreadable`."""
        try:
            if self._path.stat().st_size > FILE_BYTES_MAX:
                raise AccountsUnreadable(f"{self._path} is over {FILE_BYTES_MAX >> 20} MiB: move it away")
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        charges = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                charges.append(msgspec.json.decode(line, type=Charge))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise AccountsUnreadable(f"line {number} of {self._path} is no charge: mend or remove it") from error
        return [charge for charge in charges if charge.at // DAY_S >= now // DAY_S - 1]

    def add(self, charge: Charge) -> None:
        """Append a charge and wait until it is on the disk. Raises `OSError`."""
        with self._lock:
            self._add(msgspec.json.encode(charge) + b"\n")

    def _add(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            while end:  # what a crash left of a line goes
                file.seek(end - 1)
                if file.read(1) == b"\n":
                    break
                end -= 1
            file.truncate(end)
            file.seek(end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
