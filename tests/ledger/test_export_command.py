"""`waggle ledger export` and `import` as a user meets them, and what the documentation says of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import examples
import pytest
from click.testing import CliRunner, Result

from ledger import tables
from ledger.author import Author
from ledger.errors import BadStatement, UnknownId
from ledger.export import FORMATS
from ledger.statements import TYPES
from ledger.store import Store
from node.errors import UserError
from node.exchange_cli import export_command, import_command
from node.home import Home, found_challenge
from node.tracks import CPU_TRACK, own_tracks

DOCUMENT = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Home]:
    """Two homes of one challenge, the first with a discovery."""
    folder = tmp_path_factory.mktemp("homes")
    text = folder / "text.txt"
    text.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    one, two = Home(folder / "one"), Home(folder / "two")
    challenge = found_challenge(one, "test", [text], own_tracks([CPU_TRACK], 1.0))
    store = one.store(challenge)
    two.settle(challenge, {challenge.corpus.digest: store.blobs.get(challenge.corpus.digest)})
    me = Author(store, one.key())
    found = examples.state_discovery(me, store.blobs.put(b"lr = 1\n"), store.blobs.put(b"lr = 2\n"))
    examples.state_attestation(examples.author(store, 2), found)
    store.close()
    return one, two


@pytest.fixture
def one(homes: tuple[Home, Home]) -> Home:
    return homes[0]


@pytest.fixture
def two(homes: tuple[Home, Home]) -> Home:
    return homes[1]


def run(command: click.Command, home: Home, *arguments: str | Path, data: bytes | None = None) -> Result:
    return CliRunner().invoke(command, ["--home", str(home.path), *map(str, arguments)], input=data)


def exported(home: Home, *arguments: str | Path) -> bytes:
    done = run(export_command, home, *arguments)
    assert done.exit_code == 0, done.exception
    return done.stdout_bytes


def store_of(home: Home) -> Store:
    return home.store(home.challenge())


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_holds_what_is_printed(one: Home, tmp_path: Path, form: str) -> None:
    printed = exported(one, "--format", form)
    file = tmp_path / "file"
    file.write_text("older")
    assert exported(one, "--format", form, "--out", file) == b""
    assert file.read_bytes() == printed != b""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_export_is_imported_by_another_home(one: Home, two: Home, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    exported(one, "--format", "jsonl", "--blobs", "--out", file)
    done = run(import_command, two, file)
    assert (done.exit_code, done.exception) == (0, None)
    assert done.stdout == "entries   8 new, 0 already there\nprograms  2 new, 0 already there\n"
    assert tables.digest(store_of(one).db) == tables.digest(store_of(two).db)
    again = run(import_command, two, "--json", "-", data=file.read_bytes())
    assert json.loads(again.stdout) == {
        "entries_new": 0, "entries_known": 8, "programs_new": 0, "programs_known": 2, "refused": 0, "refusals": [],
    }  # fmt: skip


def test_what_is_refused_is_told_and_exits_with_1(one: Home, two: Home) -> None:
    data = exported(one, "--format", "jsonl") + b"\x1b[31m\n" * 6
    done = run(import_command, two, "-", data=data)
    assert done.exit_code == 1
    assert "refused   7\n          line 10: malformed line" in done.stdout
    assert done.stdout.endswith("and 2 more\n")
    assert done.stdout.replace("\n", "").isprintable()
    strict = run(import_command, two, "--strict", "-", data=data)
    assert (strict.exit_code, "refused   1\n" in strict.stdout) == (1, True)


def test_ids_may_be_shortened(one: Home) -> None:
    (found,) = (signed for signed in store_of(one).entries() if signed.statement.kind == "discovery")
    lines = exported(one, "--format", "intoto", found.id[:20]).splitlines()
    assert len(lines) == 7


def test_the_rows_are_this_nodes_or_everybodys(one: Home, two: Home) -> None:
    assert exported(one, "--format", "tsv").count(b"\n") == 3
    assert exported(one, "--format", "tsv", "--author", examples.author_id(2)).count(b"\n") == 1
    assert exported(one, "--format", "tsv", "--author", "all").count(b"\n") == 3
    assert exported(one, "--format", "tsv", "--track", "another").count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        (["--format", "tsv", "--blobs"], UserError, "--blobs goes with --format jsonl only"),
        (["--format", "html", "--author", "all"], UserError, "--author goes with --format tsv only"),
        (["--format", "jsonl", "--track", "x"], UserError, "--track goes with --format tsv only"),
        (["--format", "prov", "bafkreiabsent"], UnknownId, "no entry"),
        (["--format", "prov", "--out", "/dev/null"], UserError, "not a regular file"),
    ],
)
def test_wrong_usage(one: Home, arguments: list[str], error: type[Exception], why: str) -> None:
    done = run(export_command, one, *arguments)
    assert isinstance(done.exception, error)
    assert why in str(done.exception)


def test_another_challenge_is_an_error(one: Home) -> None:
    fields = {"format": "urn:waggle:ledger:v1", "challenge": "d" * 64, "whole": True, "entries": 0, "blobs": 0}
    done = run(import_command, one, "-", data=json.dumps(fields).encode())
    assert isinstance(done.exception, BadStatement)


def test_an_export_that_fails_leaves_the_old_file(one: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ledger.jsonl").write_text("older")
    store = store_of(one)
    (damaged,) = store.db.execute("SELECT envelope FROM entries ORDER BY lamport DESC, id DESC LIMIT 1").fetchone()
    with store.db.conn:
        store.db.conn.execute("UPDATE entries SET envelope = x'00' WHERE envelope = ?", (damaged,))
    try:
        done = run(export_command, one, "--format", "jsonl", "--out", tmp_path / "ledger.jsonl")
    finally:
        with store.db.conn:
            store.db.conn.execute("UPDATE entries SET envelope = ? WHERE envelope = x'00'", (damaged,))
    assert isinstance(done.exception, BadStatement)
    assert (tmp_path / "ledger.jsonl").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_the_documents_commands_and_options_exist() -> None:
    commands: dict[str, Callable[..., object]] = {"export": export_command, "import": import_command}
    assert set(re.findall(r"^waggle ledger (\w+)", DOCUMENT, re.MULTILINE)) == set(commands)
    known = {name for command in (export_command, import_command) for option in command.params for name in option.opts}
    mentioned = set(re.findall(r"--[a-z][a-z-]+", DOCUMENT))
    assert mentioned <= known
    assert known - mentioned <= {"--home", "--json", "ids", "file"}
    for form in FORMATS:
        assert f"\n## {form}\n" in DOCUMENT
    assert set(re.findall(r"urn:waggle:\w+:v1", DOCUMENT)) <= {*TYPES, "urn:waggle:ledger:v1"}


def test_the_documents_program_verifies_a_bundle(
    one: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exported(one, "--format", "intoto", "--out", tmp_path / "some.intoto.jsonl")
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(compile(program, "docs/exports.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 8
    assert printed[-1] == f"{examples.author_id(2)} urn:waggle:attestation:v1"
    spoilt = (tmp_path / "some.intoto.jsonl").read_text().replace('"payload":"eyJ', '"payload":"eyI', 1)
    (tmp_path / "some.intoto.jsonl").write_text(spoilt)
    with pytest.raises(Exception, match="signatures do not match"):
        exec(compile(program, "docs/exports.md", "exec"), {})
