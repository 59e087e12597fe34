"""Runs a stranger's PyTorch program where it can hurt nothing but its own score.

What this sandbox does **not** stop:

* a bug in the kernel: the program speaks to the host's kernel, and there is no system-call filter yet, so the whole
  system-call surface is open, and with it socket families that need no network (AF_NETLINK, AF_VSOCK) and memfds;
* the program reading what everybody on the machine may read below /usr and the Python prefixes, and /proc's facts about
  the machine (CPU, memory, kernel version);
* memory between two samples of the watcher (50 ms), and besides the resident memory the sized tmpfs
  (`command.TMPFS_BYTES`) and memfds that nobody maps; swap is not counted;
* CPU time of children that live less than one sample *and* whose parent has the kernel discard them unreaped;
  the wall cap bounds what is gained by it;
* a program that alters the stub in its own process: it may answer what it likes. Nothing that the stub says is
  believed; time is measured from outside and the score is computed by evaluate.py;
* slowing down its neighbours by cache, memory bandwidth and disk reads.

Files: `command.py` the command line · `meter.py` what a process tree uses · `process.py` one sandboxed process, its
pipes and limits · `preflight.py` whether it works here.
"""
