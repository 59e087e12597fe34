"""What a node's owner can do with its key: look, revoke it, go on with another.

Whoever has a key can revoke it, a thief too; that ends the harm as well. A new key starts without standing: others
trust it once they have checked what it says.
"""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from ledger.author import Author
from ledger.envelope import Signed, consent_bytes, peer_id
from ledger.predicates import Successor
from node.home import Home
from node.identity import load_key, write_key


class Rotated(Struct, frozen=True):
    """The old key's last word, and who goes on."""

    revocation: str  # id of the entry
    old: str  # peer id
    new: str
    kept: str  # the file in which the old key lies now


def revoke(home: Home, reason: str) -> Signed:
    """State that this node's key is void. The node can publish nothing more under it."""
    with home.locked():
        store = home.store(home.challenge())
        return Author(store, home.key()).revoke(reason)


def rotate(home: Home, reason: str) -> Rotated:
    """Revoke the key in favour of a new one, which takes its place in the home; what was stated holds.

    In this order: the new key is on the disk before the old one names it, and takes its place last. So after a stop
    anywhere this can be called again, and goes on.
    """
    with home.locked():
        challenge = home.challenge()
        old, store = home.key(), home.store(challenge)
        author = Author(store, old)
        new_file = home.key_file.with_suffix(".next")
        if not new_file.exists():
            write_key(new_file, Ed25519PrivateKey.generate())
        new = load_key(new_file)
        consent = base64.b64encode(new.sign(consent_bytes(challenge.digest(), author.id))).decode()
        successor = Successor(peer=peer_id(new.public_key()), consent=consent)
        revocation = store.revocation(author.id, successor.peer) or author.revoke(reason, successor).id
        kept = home.path / f"identity.{author.id[-8:]}.revoked"
        if not kept.exists():
            kept.hardlink_to(home.key_file)
        new_file.replace(home.key_file)
        return Rotated(revocation, author.id, successor.peer, str(kept))
