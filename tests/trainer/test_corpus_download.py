"""Text from URLs with a pinned digest: resumed, checked, and refused with a reason. The server is real, on loopback."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer.corpus import Corpus, CorpusError, prepare
from trainer.corpus.download import fetch, pinned

TEXT = b"".join(b"Line %d of what is fetched.\n" % n for n in range(100_000))
DIGEST = hashlib.sha256(TEXT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves TEXT under any path; `sends` bytes of body at most before it hangs up, with or without ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sends, self.ranges, self.status = len(TEXT), True, 0
        self.asked: list[str | None] = []

    def url(self, path: str = "text.txt") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}#sha256={DIGEST}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if self.server.status or start >= len(TEXT):
            self.send_error(self.server.status or 416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(TEXT) - 1}/{len(TEXT)}")
        self.send_header("Content-Length", str(len(TEXT) - start))
        self.end_headers()
        self.wfile.write(TEXT[start : start + self.server.sends])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_url_becomes_a_corpus_and_nothing_else_is_left(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    prepared = prepare([server.url()], tmp_path / "out", progress=lambda *now: seen.append(now))
    assert b"".join(document.text for document in Corpus.open(prepared.path).documents) == TEXT
    assert Corpus.open(prepared.path).documents[0].name == "text.txt#0"
    assert ("fetching text.txt", len(TEXT), len(TEXT)) in seen
    assert ("reading text", len(TEXT), len(TEXT)) in seen
    assert [path.name for path in (tmp_path / "out").iterdir()] == [prepared.written.digest]


def test_file_urls_work_too(tmp_path: Path) -> None:
    (tmp_path / "my text.txt").write_bytes(TEXT)
    url = (tmp_path / "my text.txt").as_uri() + f"#sha256={DIGEST}"
    assert fetch(pinned(url), tmp_path / "out", lambda *now: None).read_bytes() == TEXT


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.sends = len(TEXT) // 4 + 1
    assert fetch(pinned(server.url()), tmp_path, lambda *now: None).read_bytes() == TEXT
    assert server.asked == [None] + [f"bytes={n * server.sends}-" for n in range(1, len(server.asked))]
    assert len(server.asked) == 4


def test_an_interrupted_download_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(pinned(server.url()), tmp_path, interrupt)
    assert fetch(pinned(server.url()), tmp_path, lambda *now: None).read_bytes() == TEXT
    assert server.asked == [None, f"bytes={2**20}-"]
    assert fetch(pinned(server.url()), tmp_path, lambda *now: None).read_bytes() == TEXT
    assert len(server.asked) == 2  # it was there


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    partial = tmp_path / DIGEST / "text.txt.part"
    partial.parent.mkdir()
    partial.write_bytes(b"the beginning of something else")
    assert fetch(pinned(server.url()), tmp_path, lambda *now: None).read_bytes() == TEXT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_sends_no_more_is_given_up(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    partial = tmp_path / DIGEST / "text.txt.part"
    partial.parent.mkdir()
    partial.write_bytes(TEXT[:1000])
    server.sends = 0
    with pytest.raises(CorpusError, match="cannot be fetched"):
        fetch(pinned(server.url()), tmp_path, lambda *now: None)
    assert len(server.asked) == 1


def test_another_file_than_the_pinned_one_is_removed(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / DIGEST / "text.txt.part"
    partial.parent.mkdir()
    for beginning in (b"another beginning", TEXT + b"and more"):
        partial.write_bytes(beginning)
        with pytest.raises(CorpusError, match=f"not the pinned {DIGEST}"):
            fetch(pinned(server.url()), tmp_path, lambda *now: None)
        assert not partial.exists()
    assert fetch(pinned(server.url()), tmp_path, lambda *now: None).read_bytes() == TEXT


def test_a_refusal_says_what_the_server_said(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(CorpusError, match="404 Not Found: check the URL"):
        fetch(pinned(server.url()), tmp_path, lambda *now: None)


def test_being_offline_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as unheard:
        port = unheard.getsockname()[1]
    source = pinned(f"http://127.0.0.1:{port}/a.txt#sha256={DIGEST}")
    with pytest.raises(CorpusError, match=r"(?s)Connection refused.*Is this machine online\? Or fetch it on another"):
        fetch(source, tmp_path, lambda *now: None)
    (tmp_path / DIGEST / "a.txt.part").write_bytes(b"some")
    with pytest.raises(CorpusError, match="The 4 bytes that came are kept: the same command goes on"):
        fetch(source, tmp_path, lambda *now: None)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("https://example.org/a.txt", "sha256sum"),
        ("https://example.org/a.txt#sha256=12", "sha256sum"),
        (f"https://example.org/a.txt#md5={DIGEST}", "sha256sum"),
        (f"ftp://example.org/a.txt#sha256={DIGEST}", "ftp cannot be fetched"),
    ],
)
def test_a_url_has_to_be_pinned(url: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=complaint):
        prepare([url], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_url_cannot_name_a_path_outside_the_folder() -> None:
    for name in ("..%2f..%2fevil", "..", "", "%2e%2e", "evil/."):
        assert pinned(f"https://example.org/{name}#sha256={DIGEST}").file_name in ("evil", "download")
