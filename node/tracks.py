"""The tracks that `waggle init` can put into a challenge, and which of a challenge's tracks a node works in."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files

import msgspec

from node.errors import UserError
from trainer.challenge import Challenge, Track

CPU_TRACK = "cpu-quick"
GPU_TRACK = "gpu-5min"
OWN_TRACKS = (CPU_TRACK, GPU_TRACK)

_PROGRAMS = {CPU_TRACK: "cpu_quick.py", GPU_TRACK: "gpu_5min.py"}
_TRACKS = {
    CPU_TRACK: Track(baseline="0" * 64),
    GPU_TRACK: Track(
        device="cuda",
        clock="wall",
        budget_s=300.0,
        threads=4,
        memory_bytes=16 * 2**30,  # of the machine's; that of the GPU is not limited
        seq_len=1024,
        eval_bytes=2**20,
        baseline="0" * 64,
    ),
}


def own_tracks(names: Sequence[str], budget_s: float | None = None) -> dict[str, Track]:
    """Tracks of ours by name, with `budget_s` by each one's clock or, where none is given, its own budget."""
    found = {}
    for name in names:
        track = msgspec.structs.replace(_TRACKS[name], baseline=hashlib.sha256(baseline_program(name)).hexdigest())
        found[name] = track if budget_s is None else msgspec.structs.replace(track, budget_s=budget_s)
    return found


def baseline_program(name: str) -> bytes:
    """The text that a track of ours starts from."""
    return files("trainer.programs").joinpath(_PROGRAMS[name]).read_bytes()


def choose_track(challenge: Challenge, asked: str | None) -> str:
    """The track to work in: as asked, or the first for the CPU, which every machine has. Raises `UserError`."""
    tracks = challenge.tracks
    if asked is None:
        return min(tracks, key=lambda name: (tracks[name].device != "cpu", name != CPU_TRACK))
    if asked not in tracks:
        raise UserError(f"the challenge has no track {asked!r}; it has {', '.join(tracks)}.")
    return asked
