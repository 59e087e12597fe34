"""A bundle of in-toto attestations: one DSSE envelope in JSON per line, for tools that know nothing of Waggle.

Sources: https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/bundle.md and, for the JSON form,
https://github.com/secure-systems-lab/dsse/blob/v1.0.2/envelope.md. The key id of a signature is its author's peer id,
which contains the public key.
"""

from collections.abc import Iterable, Iterator

import msgspec

from ledger.envelope import Envelope, Signed


def export(entries: Iterable[Signed]) -> Iterator[str]:
    """The lines, in the order of the entries. *Pure.*"""
    for signed in entries:
        envelope = msgspec.msgpack.decode(signed.envelope, type=Envelope)
        yield msgspec.json.encode(envelope).decode() + "\n"  # msgspec writes bytes in base64, as DSSE has them
