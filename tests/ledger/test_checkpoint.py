"""Checkpoints: notes that other people's software wrote, and lies about ours."""

import base64
from hashlib import sha256

import examples
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoint import (
    NOTE_BYTES_MAX,
    Checkpoint,
    Origin,
    decode_base64,
    open_checkpoint,
    open_note,
    origin,
    parse_origin,
    sign,
    sign_note,
)
from ledger.errors import BadStatement
from ledger.merkle import EMPTY_ROOT, TREE_SIZE_MAX, leaf_hash, verify_inclusion

# Go's golang.org/x/mod/sumdb/note, documentation and tests.
PETER = "PeterNeumann"
PETERS_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETERS_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETERS_NOTE = PETERS_TEXT + (
    "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

# A tree head of the Go checksum database, whose key does not bear the name of its origin.
SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUMDB_NOTE = (
    "go.sum database tree\n65209736\n5+uGFjx6xBZG8ip1+wi77v+grwbhhukIrxEUS8PXvRo=\n"
    "\n— sum.golang.org "
    "Az3grnbssgK7ubgFX36gVETtNv0U23qxyAhAMai2QUfeGa3nB/akvkMdlUErfcZz7l/R3cVtYspg3dxXABkGZZKdsQ8=\n"
)

# An answer of Sigstore's Rekor v2, from sigstore-js, rekor-v2.test.ts; its key is in Sigstore's trusted_root.json.
REKOR_KEY = "MCowBQYDK2VwAyEAt8rlp1knGwjfbcXAYPYAkn0XiLz1x8O4t0YkEhie244="  # SubjectPublicKeyInfo
REKOR_NOTE = (
    "log2025-1.rekor.sigstore.dev\n412115\n+8vUkEgBK/ansexBUomzocaWoPEmPIzxJC/y+xNMQN4=\n"
    "\n— log2025-1.rekor.sigstore.dev "
    "zxGZFahCZ/+MqTjH4rC5MWcdLDWbpetE5l30RZfQc4BQkRjWSoKipEUPjvHENeZDHIlAsuezJcLzUVvItpNjaSRoMAs=\n"
)
REKOR_INDEX = 412114
REKOR_PATH = [
    "KIoYVJ0TqmaEkFboP7YWTjSh8vFjVECmokcTOAByfIM=",
    "Umf0h0cK2hegTzNnSgsXszyiA4bp5OvEvP+GrWq3C8w=",
    "vNQeSNBfepYZI2Ez3ViKdCft0JH87ZS8IGKwixxUVjc=",
    "JBAugd5awOqmHXIKgz1MOjlR5f37VqmP0bWoRVcHX5M=",
    "xYH2mAxGxfOgvSOLnItT2LsJt+Z2a2egjf8QJFwK7jA=",
    "PbZWM3NitzChx9A22m/kddDtzh2bAKX5Fy7j76l3z2k=",
    "sKX9Sbsahvw5DiC2oP6pbZsDi1NzuNS1nIULXkCC57o=",
    "pfTCxXHnCM253jwYxVJcuUhmoTTtDxznn92QhN0M4Ws=",
    "cJ8uk2ZvZyfg+HRILKOHcyHu2pvI8Fz3R1MyMvyzWtA=",
]
REKOR_ENTRY = (
    '{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256",'
    '"digest":"5dJ2SakUeOXY4ut1hBHPomz+hTn6tc0KTzcGosA+epE="},"signature":{"content":'
    '"MEYCIQDcJO82nz1rrtu1DxSpruX1ogJum8dl4IiGBMPz3jYcbgIhAKwQ8wNu1On8pYfhAJCK8OqT0OOGTh/yAQ+An/e3d/dU",'
    '"verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","publicKey":{"rawBytes":'
    '"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE0q9Q+tdG195CXKfmUx1YatvZ/mN3rhjpOfm1lvskWprH9Pxpe9Xc6LjEJbBcVPhutkfUvBB9RDk+'
    '42SNE6/5xg=="}}}}}}'
)

KEY = examples.key(1)
ORIGIN = origin(examples.CHALLENGE, examples.author_id(1), "main")
CHECKPOINT = Checkpoint(ORIGIN, 20852163, sha256(b"a root").digest())


def public(verifier_key: str) -> Ed25519PublicKey:
    """The key in a note's verifier key: name, id and base64 of type and key."""
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(verifier_key.split("+", 2)[2])[1:])


def signed(text: str, name: str = ORIGIN) -> str:
    """A note with a good signature, whatever its text."""
    return sign_note(KEY, name, text)


def test_gos_note_is_read_and_written() -> None:
    secret = Ed25519PrivateKey.from_private_bytes(base64.b64decode(PETERS_SECRET.split("+", 4)[4])[1:])
    assert secret.public_key() == public(PETERS_KEY)
    assert sign_note(secret, PETER, PETERS_TEXT) == PETERS_NOTE
    assert open_note(PETERS_NOTE, PETER, public(PETERS_KEY)) == PETERS_TEXT


def test_the_go_checksum_databases_tree_head() -> None:
    assert open_note(SUMDB_NOTE, "sum.golang.org", public(SUMDB_KEY)).startswith("go.sum database tree\n65209736\n")
    with pytest.raises(BadStatement, match="without a signature by the expected key"):
        open_checkpoint(SUMDB_NOTE, public(SUMDB_KEY))


def test_an_entry_of_sigstores_log_is_in_its_checkpoint() -> None:
    rekor = Ed25519PublicKey.from_public_bytes(base64.b64decode(REKOR_KEY)[-32:])
    checkpoint = open_checkpoint(REKOR_NOTE, rekor)
    assert checkpoint[:2] == ("log2025-1.rekor.sigstore.dev", REKOR_INDEX + 1)
    verify_inclusion(
        [base64.b64decode(node) for node in REKOR_PATH],
        leaf=leaf_hash(REKOR_ENTRY.encode()),
        index=REKOR_INDEX,
        size=checkpoint.size,
        root_hash=checkpoint.root,
    )


@given(st.integers(0, TREE_SIZE_MAX), st.binary(min_size=32, max_size=32))
def test_what_was_signed_is_what_is_read(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(ORIGIN, size, root)
    assert open_checkpoint(sign(KEY, checkpoint), KEY.public_key()) == checkpoint


def test_the_form_is_c2sps() -> None:
    text, _, signature = sign(KEY, CHECKPOINT).partition("\n\n")
    assert text == f"{ORIGIN}\n20852163\n{base64.b64encode(CHECKPOINT.root).decode()}"
    assert signature.startswith(f"— {ORIGIN} ")
    assert len(base64.b64decode(signature.split()[2])) == 4 + 64


def test_any_flipped_bit_is_found() -> None:
    note = sign(KEY, CHECKPOINT).encode()
    for bit in range(8 * len(note)):
        spoilt = (int.from_bytes(note, "big") ^ 1 << bit).to_bytes(len(note), "big")
        with pytest.raises(BadStatement):
            open_checkpoint(spoilt.decode(errors="surrogateescape"), KEY.public_key())


@given(st.text(max_size=500) | st.text("—\n +=Aw/1", max_size=100))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(BadStatement):
        open_checkpoint(text, KEY.public_key())


def test_a_checkpoint_by_another_key_or_under_another_name() -> None:
    with pytest.raises(BadStatement, match="expected key"):
        open_checkpoint(sign(examples.key(2), CHECKPOINT), KEY.public_key())
    text = open_note(sign(KEY, CHECKPOINT), ORIGIN, KEY.public_key())
    with pytest.raises(BadStatement, match="expected key"):
        open_checkpoint(signed(text, "somebody/else"), KEY.public_key())


def test_a_stolen_key_id_does_not_help() -> None:
    text, line = sign(KEY, CHECKPOINT).split("\n\n")
    key_id = base64.b64decode(line.split()[2])[:4]
    forged = base64.b64encode(key_id + examples.key(2).sign(text.encode() + b"\n")).decode()
    with pytest.raises(BadStatement, match="not what was signed"):
        open_checkpoint(f"{text}\n\n— {ORIGIN} {forged}\n", KEY.public_key())
    with pytest.raises(BadStatement, match="not what was signed"):  # not even beside a good one
        open_checkpoint(f"{text}\n\n{line}— {ORIGIN} {forged}\n", KEY.public_key())


def test_signatures_of_others_are_passed_over() -> None:
    note = sign(KEY, CHECKPOINT)
    same_name = sign(examples.key(2), CHECKPOINT).split("\n\n")[1]
    post_quantum = f"— a.witness {base64.b64encode(bytes(5000)).decode()}\n"
    witnessed = note + same_name + 15 * post_quantum
    assert open_checkpoint(witnessed, KEY.public_key()) == CHECKPOINT
    with pytest.raises(BadStatement, match="over the limit"):
        open_checkpoint(note + (NOTE_BYTES_MAX // len(post_quantum) + 1) * post_quantum, KEY.public_key())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "- a.witness AAAAAAA=",
        "— a.witness",
        "— a.witness AAAAAAA= ",
        "— a witness AAAAAAA=",
        "— a+witness AAAAAAA=",
        "— a\u00a0witness AAAAAAA=",
        "— a.witness AAAAAA==",  # a key id and no signature
        "— a.witness AAAAAAB=",  # bits that nothing uses
        "— a.witness AAAA_AA=",
    ],
)
def test_malformed_signature_lines(line: str) -> None:
    with pytest.raises(BadStatement):
        open_checkpoint(f"{sign(KEY, CHECKPOINT)}{line}\n", KEY.public_key())


def test_notes_without_their_parts() -> None:
    note = sign(KEY, CHECKPOINT)
    for spoilt in (note[:-1], note.replace("\n\n", "\n"), note.split("—")[0], note + "\n", note.replace("\n", "\r\n")):
        with pytest.raises(BadStatement):
            open_checkpoint(spoilt, KEY.public_key())


ROOT_LINE = base64.b64encode(CHECKPOINT.root).decode()


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["1"],
        ["01", ROOT_LINE],
        ["-1", ROOT_LINE],
        ["+1", ROOT_LINE],
        ["1_0", ROOT_LINE],
        ["１", ROOT_LINE],
        ["", ROOT_LINE],
        [str(TREE_SIZE_MAX + 1), ROOT_LINE],
        ["9" * 5000, ROOT_LINE],
        ["1", ROOT_LINE[:-4]],
        ["1", ROOT_LINE.rstrip("=")],
        ["1", CHECKPOINT.root.hex()],
        ["1", ROOT_LINE, "", "an extension"],
    ],
)
def test_texts_that_are_signed_but_no_checkpoints(lines: list[str]) -> None:
    note = signed("".join(f"{line}\n" for line in [ORIGIN, *lines]))
    with pytest.raises(BadStatement):
        open_checkpoint(note, KEY.public_key())


def test_extension_lines_are_left_out() -> None:
    note = signed(f"{ORIGIN}\n20852163\n{ROOT_LINE}\nan extension\nanother\n")
    assert open_checkpoint(note, KEY.public_key()) == CHECKPOINT


@pytest.mark.parametrize(
    "bad",
    [
        CHECKPOINT._replace(origin=""),
        CHECKPOINT._replace(origin="a log"),
        CHECKPOINT._replace(origin=f"{ORIGIN}\n5\n{ROOT_LINE}"),
        CHECKPOINT._replace(origin=f"{ORIGIN}\x1b"),
        CHECKPOINT._replace(size=-1),
        CHECKPOINT._replace(size=TREE_SIZE_MAX + 1),
        CHECKPOINT._replace(root=b""),
    ],
)
def test_what_would_be_refused_is_not_signed(bad: Checkpoint) -> None:
    with pytest.raises(BadStatement):
        sign(KEY, bad)


def test_an_empty_feed_has_a_checkpoint() -> None:
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert open_checkpoint(sign(KEY, empty), KEY.public_key()) == empty


@given(st.integers(1, 2**255), st.sampled_from(["main", "trials.1700000000"]), st.binary(min_size=32, max_size=32))
def test_an_origin_names_its_feed(number: int, feed: str, challenge: bytes) -> None:
    parts = (challenge.hex(), examples.author_id(number), feed)
    assert parse_origin(origin(*parts)) == Origin(*parts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "waggle",
        ORIGIN + "/",
        ORIGIN + "\n",
        ORIGIN.replace("waggle", "waggles"),
        ORIGIN.replace("main", "\x1b[31m"),
        ORIGIN.replace("main", "\ud800"),
        ORIGIN.replace("c" * 64, "C" * 64),
        ORIGIN.replace("/12D", "/Qm2D"),
        "/".join(reversed(ORIGIN.split("/"))),
    ],
)
def test_what_is_no_origin_of_a_feed(text: str) -> None:
    with pytest.raises(BadStatement) as refused:
        parse_origin(text)
    assert str(refused.value).isprintable()


@given(st.binary(max_size=100))
def test_bytes_have_one_base64_text(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("text", ["Q", "QQ", "QQ=", "QR==", "QQ==\n", " QQ==", "Q_Q=", "QQ==QQ==", "é", "\ud800"])
def test_other_base64_texts_are_refused(text: str) -> None:
    with pytest.raises(BadStatement, match="base64"):
        decode_base64(text)
