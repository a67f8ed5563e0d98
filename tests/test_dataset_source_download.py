"""Downloads: a real server on this machine that cuts, refuses and lies."""

import contextlib
import gc
import hashlib
import http.server
import threading
from typing import Any

import pytest

from tests.archives import pack
from tests.images import make_folder
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.core.settings import DataConfig
from tlperf.dataset.sources import open_source
from tlperf.dataset.sources.download import (
    BACKOFF_SECS,
    ascii_url,
    cache_folder,
    fetch,
    file_name,
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content` as the server's plan says."""

    server: Any

    def do_GET(self):
        wanted = self.headers.get("Range", "")
        self.server.ranges_asked.append(wanted)
        self.server.paths_asked.append(self.path)
        step = self.server.plan.pop(0) if self.server.plan else ""
        if isinstance(step, str) and "://" in step:
            self.send_response(302)
            self.send_header("Location", step)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if isinstance(step, int) and step >= 400:
            self.send_error(step)
            return
        content, start = self.server.content, 0
        if wanted and self.server.has_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            first = start + 1 if step == "shifted" else start
            spread = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", spread)
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # A number below 400 is where the connection is cut.
        self.wfile.write(body[:step] if isinstance(step, int) else body)

    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def serve(content, *, plan=(), has_ranges=True):
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.plan, server.has_ranges = content, list(plan), has_ranges
    server.ranges_asked, server.paths_asked = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/files/my%20pets.zip"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("TLPERF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "downloads"


CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def partial_of(cache):
    return cache / DIGEST / "my_pets.zip.partial"


def test_a_url_is_listed_like_the_archive_and_works_offline(tmp_path, cache):
    path = pack(make_folder(tmp_path / "pets", {"cats": 2, "dogs": 2}), "zip")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with serve(path.read_bytes()) as server:
        source = open_source(DataConfig(source=server.url, source_sha256=digest))
        assert source.name == "my_pets"
        assert server.ranges_asked == []  # nothing before it is read
        first = source.read_listing()
        second = source.read_listing()
        assert server.ranges_asked == [""]
    offline = source.read_listing()  # the server is gone
    assert first == second == offline
    assert first.items[0].id == "cats/000.jpg"
    kept = cache / digest / "my_pets.zip"
    assert kept.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in kept.parent.iterdir()) == [".lock", "my_pets.zip"]


# What the server does, whether it knows ranges, what is there before; then the ranges
# asked for.
TRANSFERS = [
    ([], True, None, [""]),
    ([100], True, None, ["", "bytes=100-"]),
    ([100, 200], True, None, ["", "bytes=100-", "bytes=300-"]),
    ([100], False, None, ["", "bytes=100-"]),  # from the start again
    ([503, 100, 500], True, None, ["", "", "bytes=100-", "bytes=100-"]),
    ([], True, CONTENT[:77], ["bytes=77-"]),
    ([], True, CONTENT, [f"bytes={len(CONTENT)}-"]),  # whole already
    ([], True, CONTENT + b"x", [f"bytes={len(CONTENT) + 1}-", ""]),  # too long
    (["shifted"], True, CONTENT[:77], ["bytes=77-", ""]),
    ([], False, CONTENT[:77], ["bytes=77-"]),
]


@pytest.mark.parametrize(("plan", "has_ranges", "before", "asked"), TRANSFERS)
def test_transfers(cache, plan, has_ranges, before, asked):
    if before is not None:
        partial_of(cache).parent.mkdir(parents=True)
        partial_of(cache).write_bytes(before)
    waits: list[float] = []
    with serve(CONTENT, plan=plan, has_ranges=has_ranges) as server:
        path = fetch(server.url, DIGEST, sleep=waits.append)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked == asked
    assert len(waits) == len(asked) - 1
    assert not partial_of(cache).exists()


def test_gives_up_after_failures_in_a_row_and_keeps_what_came(cache):
    plan = [100, *[503] * 9]
    waits: list[float] = []
    with serve(CONTENT, plan=plan) as server:
        with pytest.raises(TlperfError) as caught:
            fetch(server.url, DIGEST, sleep=waits.append)
    assert caught.value.code == ExitCode.UNAVAILABLE
    assert caught.value.text() == (
        f"download_failed: {server.url}: HTTP status 503 (Service Unavailable), "
        "100 bytes are kept; check the URL and the network and run again"
    )
    assert tuple(waits) == BACKOFF_SECS
    assert partial_of(cache).read_bytes() == CONTENT[:100]


def test_a_missing_file_is_not_asked_for_twice(cache):
    with serve(CONTENT, plan=[404, 404]) as server:
        with pytest.raises(TlperfError) as caught:
            fetch(server.url, DIGEST)
    assert caught.value.code == ExitCode.UNAVAILABLE
    assert "HTTP status 404 (Not Found); check the URL" in caught.value.text()
    assert len(server.ranges_asked) == 1


def test_a_url_is_asked_for_as_browsers_do(cache):
    with serve(CONTENT) as server:
        url = server.url.replace("my%20pets", "données 猫%20\udcff") + "?a=é&b#c"
        path = fetch(url, DIGEST)
        expected = "/files/donn%C3%A9es%20%E7%8C%AB%20%FF.zip?a=%C3%A9&b"
        assert server.paths_asked == [expected]
    assert path.name == "données_猫_.zip"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://münchen.de:80/a.zip", "http://xn--mnchen-3ya.de:80/a.zip"),
        ("https://é/a.zip", "https://xn--9ca/a.zip"),
        ("http://[::1]:80/a\\b\n.zip", "http://[::1]:80/a%5Cb.zip"),
        ("http://h:/%zz/a;b=c,d.zip", "http://h:/%zz/a;b=c,d.zip"),
    ],
)
def test_ascii_urls(url, expected):
    assert ascii_url(url) == expected


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # urllib's
def test_a_server_that_sends_nowhere(cache):
    with serve(CONTENT, plan=["http://[/a.zip"]) as server:
        with pytest.raises(TlperfError, match=r"sent to no URL \(") as caught:
            fetch(server.url, DIGEST)
        assert len(server.paths_asked) == 1
    assert caught.value.code == ExitCode.UNAVAILABLE
    del caught
    gc.collect()


def test_no_server(cache):
    with serve(CONTENT) as server:
        pass
    with pytest.raises(TlperfError) as caught:
        fetch(server.url, DIGEST, sleep=lambda _: None)
    assert caught.value.code == ExitCode.UNAVAILABLE
    assert "not reachable" in caught.value.text()
    assert "Connection refused; check" in caught.value.text().replace(")", "")


def test_other_bytes_are_refused_and_removed(cache):
    with serve(CONTENT + b"x") as server:
        with pytest.raises(TlperfError) as caught:
            fetch(server.url, DIGEST)
    assert caught.value.code == ExitCode.INTEGRITY
    found = hashlib.sha256(CONTENT + b"x").hexdigest()
    assert caught.value.text() == (
        f"wrong_sha256: {server.url}: sha256 {found}, expected {DIGEST}; check the URL "
        "and the hash and run again"
    )
    assert [path.name for path in (cache / DIGEST).iterdir()] == [".lock"]


@pytest.mark.D12
@pytest.mark.parametrize("place", [0, 5000, -1])
def test_a_flipped_byte_in_the_cache_is_never_used(cache, place, record_property):
    with serve(CONTENT) as server:
        path = fetch(server.url, DIGEST)
        damaged = bytearray(CONTENT)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        source = open_source(DataConfig(source=server.url, source_sha256=DIGEST))
        with pytest.raises(TlperfError) as caught:
            source.read_listing()
        assert len(server.ranges_asked) == 1  # no silent download
    assert caught.value.code == ExitCode.INTEGRITY
    found = hashlib.sha256(damaged).hexdigest()
    assert caught.value.text() == (
        f"wrong_sha256: {path}: sha256 {found}, expected {DIGEST}; remove it to "
        "download it again, or correct the hash"
    )
    record_property("figures", "1 of 1 flipped byte in a cached archive refused")


def test_one_downloader_at_a_time(cache):
    with directory_lock(cache / DIGEST), serve(CONTENT) as server:
        with pytest.raises(TlperfError) as caught:
            fetch(server.url, DIGEST)
        assert caught.value.code == ExitCode.RETRY
        assert server.ranges_asked == []


SETTINGS_ERRORS = [
    ("https://host/pets.zip", "", "without --source_sha256; give the sha256 that its"),
    (
        "ftp://host/pets.zip",
        "0" * 64,
        "pets.zip'; give a http or https URL",
    ),
    ("https://host/", "0" * 64, "names no file; give the URL of an archive"),
    ("https://[/a.zip", "0" * 64, "source 'https://[/a.zip' is no URL (Invalid IPv6"),
    ("https:///a.zip", "0" * 64, "is no URL (host ''); correct it"),
    ("https://a b/a.zip", "0" * 64, "is no URL (host 'a b'); correct it"),
    ("https://me:secret@h/a.zip", "0" * 64, "is no URL (host 'me:secret@h'); correct"),
    ("https://h:0/a.zip", "0" * 64, "is no URL (host 'h:0'); correct it"),
    ("https://h:65536/a.zip", "0" * 64, "is no URL (Port out of range 0-65535); corr"),
    ("https://a..é/a.zip", "0" * 64, "is no URL (encoding with 'idna' codec fail"),
    ("https://h/\ud800.zip", "0" * 64, "is no URL ('utf-8' codec can't encode"),
    ("photos", "0" * 64, "which is no file of an archive; give it with a URL or an"),
]


@pytest.mark.parametrize(("source", "sha256", "text"), SETTINGS_ERRORS)
def test_settings_that_are_refused(source, sha256, text):
    with pytest.raises(SettingsError) as caught:
        open_source(DataConfig(source=source, source_sha256=sha256))
    assert caught.value.code == ExitCode.USAGE
    assert text in caught.value.text()


def test_file_names():
    names = {
        "https://h/a/pets.tar.gz?x=1#y": "pets.tar.gz",
        "https://h/..": "",
        "https://h/%2e%2e%2fevil.zip": "evil.zip",
        "https://h/.lock": "lock",
        f"https://h/{'n' * 300}.zip": f"{'n' * 146}.zip",
        f"https://h/{'猫' * 99}.zip": f"{'猫' * 48}.zip",
    }
    assert {url: file_name(url) for url in names} == names


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TLPERF_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/tlperf"),
        ({"HOME": "/c"}, "/c/.cache/tlperf"),
    ],
)
def test_cache_folder(monkeypatch, variables, expected):
    for name in ("TLPERF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == expected
