"""Runs a stranger's PyTorch program where it can hurt nothing but its own score.

What this sandbox does **not** stop:

* a bug in the kernel behind a system call that PyTorch needs: the program speaks to the host's kernel, through a
  deny-list (`syscalls.py`), not through an allow-list and not through a kernel of its own;
* a bug in the NVIDIA driver, whose devices a CUDA track passes in, and the use of all memory of the GPU. Passing them
  in is **untested**: it is written from the driver's documentation and has not run on such a machine;
* the program reading what everybody on the machine may read below /usr and the Python prefixes, and /proc's facts about
  the machine (CPU, memory, kernel version; with CUDA also /sys);
* the program connecting to a Unix socket that somebody has left, writable for everybody, below /usr or a Python prefix:
  a read-only mount does not forbid that;
* memory, where no control group holds it (`waggle doctor` says so): what a tree takes between two samples of the
  watcher (50 ms), and what the kernel keeps for it: page tables, and buffers of up to 64 MiB in pipes and 208 KiB in
  each of `process.SOCKETS_MAX` sockets. Swap is not counted. The tiers with a control group are **untested** on a
  kernel that has them: they are taken only where a trial of them shows the limit in force;
* CPU time of children that live less than one sample *and* whose parent has the kernel discard them unreaped;
  the wall cap bounds what is gained by it;
* a program that alters the stub in its own process: it may answer what it likes. Nothing that the stub says is
  believed; time is measured from outside and the score is computed by evaluate.py;
* slowing down its neighbours by cache, memory bandwidth and disk reads; the choice of processor cores is its own.

Files: `command.py` the command line · `syscalls.py` the system-call filter · `scope.py` control groups · `meter.py`
what a process tree uses · `process.py` one sandboxed process, its pipes and limits · `pool.py` sandboxes that are ready
before they are wanted · `preflight.py` whether it works here, and what to do if not. tests/trainer/test_attacks_*.py
is the list of what was tried against it.
"""
