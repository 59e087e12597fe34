"""Trains a program of the contract in an ordinary process, without sandbox; the specification comes on stdin.

The reference of the trainer's benchmark, and what measures on a GPU as long as no track asks for one. As in the
sandbox, everything that takes long to import is imported before the clock starts. Prints one JSON object as the last
line. Imports nothing of ours, like the sandbox's own stub.
"""

import importlib
import json
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


def main() -> None:
    spec: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(spec["threads"])
    importlib.import_module("torch._dynamo")
    clock = {"cpu": time.process_time, "wall": time.monotonic}[spec["clock"]]
    tokens = torch.frombuffer(bytearray(Path(spec["tokens"]).read_bytes()), dtype=torch.uint8)
    torch.manual_seed(spec["seed"])
    end = clock() + spec["budget_s"]
    program = types.ModuleType("train")
    sys.modules["train"] = program
    exec(compile(spec["program"], "train.py", "exec"), program.__dict__)
    model = program.build(256, spec["seq_len"])
    task = types.SimpleNamespace(
        tokens=tokens,
        doc_starts=torch.zeros(1, dtype=torch.int64),
        vocab_size=256,
        seq_len=spec["seq_len"],
        device=torch.device(spec["device"]),
        seed=spec["seed"],
        time_left=lambda: end - clock(),
    )
    program.train(model, task)
    if spec["rows"]:
        print(json.dumps({"bits_per_byte": bits_per_byte(model, spec)}))


def bits_per_byte(model: torch.nn.Module, spec: dict[str, Any]) -> float:
    """Over the rows in the file, `seq_len` + 1 bytes each."""
    data = torch.frombuffer(bytearray(Path(spec["rows"]).read_bytes()), dtype=torch.uint8)
    rows = data.view(-1, spec["seq_len"] + 1).to(spec["device"]).long()
    nats = 0.0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            batch = rows[start : start + 16]
            logits = model(batch[:, :-1]).double()
            nats += F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return nats / math.log(2) / rows[:, 1:].numel()


if __name__ == "__main__":
    main()
