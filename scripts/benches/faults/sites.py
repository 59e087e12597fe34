"""Two sites with a cable between them that can be cut: network namespaces, joined by a bridge in a third one.

    one: 10.77.0.1 ── bridge ── 10.77.0.2 :two

Cutting takes the bridge's port down, so that packets vanish without a word, as they do where a real cable is cut;
each site's own address goes on working. Needs root and the command `ip` of iproute2.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HOSTS = ("10.77.0.1", "10.77.0.2")
COMMAND_DEADLINE_S = 10.0


class NoSites(Exception):
    """This machine does not let us make network namespaces; says why."""


class Sites:
    """Where processes run: `prefix(site)` goes before a command."""

    def __init__(self, name: str) -> None:
        self._bridge, self._sites = f"{name}-bridge", (f"{name}-one", f"{name}-two")

    def build(self) -> None:
        for space in (self._bridge, *self._sites):
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")
        for site, (space, host) in enumerate(zip(self._sites, HOSTS, strict=True)):
            port = f"port{site}"
            _ip("-n", self._bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{host}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """What is there of them; processes that run at a site keep its namespace alive, without its name."""
        for space in (self._bridge, *self._sites):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=COMMAND_DEADLINE_S, check=False)

    def prefix(self, site: int) -> list[str]:
        return ["ip", "netns", "exec", self._sites[site]]

    def cut(self) -> None:
        _ip("-n", self._bridge, "link", "set", "port1", "down")

    def mend(self) -> None:
        _ip("-n", self._bridge, "link", "set", "port1", "up")


@contextmanager
def two_sites() -> Iterator[Sites]:
    """Two connected sites, gone at the end. Raises `NoSites`."""
    if shutil.which("ip") is None:
        raise NoSites("there is no command ip; it comes with iproute2")
    if os.geteuid() != 0:
        raise NoSites("only root can make network namespaces")
    sites = Sites(f"waggle-{os.getpid()}")
    try:
        sites.build()
        yield sites
    finally:
        sites.remove()


def _ip(*arguments: str) -> None:
    command = ["ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False)
    if done.returncode != 0:
        raise NoSites(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
