"""The node's key: created once, readable by its owner only, never overwritten.

The public half is the node's name everywhere: libp2p peer id, author of its feeds, key id of its signatures.
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from node.errors import UserError


def write_secret(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 that appears whole or not at all; raises `FileExistsError` rather than replace one."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, path)
    finally:
        unfinished.unlink()


def fresh_mark(path: Path) -> Path:
    """The file that lies beside a key (at `path`) that has signed nothing yet."""
    return path.with_suffix(".fresh")


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The key at `path` (PKCS #8 in PEM), made on the first call. Raises `UserError` if it is no such key.

    Beside a key that was made here lies a file that says so, until the first ledger is begun with it: of any other key
    nobody knows here what it has signed.
    """
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        fresh_mark(path).touch()
        write_key(path, key)
        return key
    return load_key(path)


def write_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Keep a key in a new file; raises `FileExistsError` rather than replace one."""
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file that `write_key` made. Raises `UserError` if there is none."""
    try:
        loaded = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} cannot be read as a private key ({error}). Put its backup in place.") from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not an Ed25519 key. Put its backup in place.")
    return loaded
