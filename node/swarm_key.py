"""The key of a private swarm: 32 bytes that every node of it has, in a file that other libp2p tools can read.

    /key/swarm/psk/1.0.0/
    /base16/
    <64 hex digits>

Source: https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md#psk-format
"""

import secrets
from pathlib import Path

from node.errors import UserError
from node.identity import write_secret

KEY_BYTES = 32
_HEADER = ("/key/swarm/psk/1.0.0/", "/base16/")


def new_swarm_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def read_swarm_key(path: Path) -> bytes:
    """The key in a file. Raises `UserError` if there is none in it."""
    try:
        lines = path.read_text("ascii").split()
        if tuple(lines[:2]) != _HEADER or len(lines) != 3:
            raise ValueError("not /key/swarm/psk/1.0.0/, /base16/ and 64 hex digits, a line each")
        return parse_swarm_key(lines[2])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the key of a private swarm ({error}). Copy it again.") from error


def parse_swarm_key(digits: str) -> bytes:
    """Raises `ValueError` for anything but 64 hex digits."""
    key = bytes.fromhex(digits)
    if len(key) != KEY_BYTES or len(digits) != 2 * KEY_BYTES:
        raise ValueError(f"{len(digits)} characters where 64 hex digits are the key of a private swarm")
    return key


def keep_swarm_key(path: Path, key: bytes) -> None:
    """Write the key to a file of mode 0600. Raises `UserError` if another one lies there."""
    try:
        write_secret(path, "\n".join((*_HEADER, key.hex(), "")).encode())
    except FileExistsError:
        if read_swarm_key(path) != key:
            raise UserError(
                f"{path} holds the key of another private swarm. Join that of the invitation with a fresh --home."
            ) from None
