"""An archive behind a URL, kept in a cache and hashed before every use.

    DownloadSource("https://host/pets.zip", sha256).read_listing()
    fetch("https://host/pets.zip", sha256)     # CACHE/downloads/SHA256/pets.zip

CACHE is TLPERF_CACHE, else XDG_CACHE_HOME/tlperf, else ~/.cache/tlperf. What is
there is used without a network. A download that ends early is gone on with; one whole
file is visible under its name or none.
"""

import contextlib
import dataclasses
import email.message
import http.client
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import BinaryIO

from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.files import (
    check_free_space,
    io_errors,
    publish,
)
from tlperf.core.locks import directory_lock
from tlperf.core.progress import log, progress_bar
from tlperf.dataset.sources.archive import ArchiveSource, archive_stem, check_sha256
from tlperf.dataset.sources.listing import Listing

SCHEMES = ("http", "https")
CACHE_VARIABLE = "TLPERF_CACHE"
# Waits of this many seconds after each of so many failures in a row.
BACKOFF_SECS = (1.0, 2.0, 4.0, 8.0)
TIMEOUT_SECS = 30.0
# Too many requests, and what servers say that will soon do again.
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_CHUNK_BYTES = 1 << 20
_HOST = r"([\w.-]+|\[[\w.:%]+\])(:\d*)?"
# What a path may hold beside letters and digits; browsers encode the rest of ASCII.
_SAFE = "%!$&'()*+,/:;=?@[]|"


@dataclasses.dataclass(frozen=True)
class DownloadSource:
    """An archive behind a URL.

    Attributes:
        url: http or https.
        sha256: of the archive, hexadecimal.
    """

    url: str
    sha256: str

    def __post_init__(self) -> None:
        scheme = self.url.partition("://")[0].lower()
        if scheme not in SCHEMES:
            raise SettingsError(
                f"source is {self.url!r}", "give a http or https URL, or a path"
            )
        try:
            ascii_url(self.url)
        except ValueError as error:
            raise SettingsError(
                f"source {self.url!r} is no URL ({error})", "correct it"
            ) from None
        if not file_name(self.url):
            raise SettingsError(
                f"source {self.url!r} names no file", "give the URL of an archive"
            )
        if not self.sha256:
            raise SettingsError(
                f"source {self.url!r} without --source_sha256",
                "give the sha256 that its publisher states, or what `sha256sum` prints "
                "for a copy you trust",
            )

    @property
    def name(self) -> str:
        """The archive's name without its suffix."""
        return archive_stem(file_name(self.url))

    def read_listing(self) -> Listing:
        """All files of the class folders; downloads the archive where it is not yet."""
        return ArchiveSource(fetch(self.url, self.sha256)).read_listing()


def file_name(url: str) -> str:
    """The file name of a URL, fit for a cache; "" where it has none.

    >>> file_name("https://host/a/my%20pets.tar.gz?x=1"), file_name("https://host/")
    ('my_pets.tar.gz', '')
    """
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    name = re.sub(r"[^\w.+-]+", "_", path.rpartition("/")[2]).lstrip(".")
    return name.encode()[-150:].decode(errors="ignore")  # bytes are what is limited


def ascii_url(url: str) -> str:
    """A URL as it is asked for, like browsers do: UTF-8 by percent, the host as IDNA.

    Raises:
        ValueError: it is none.

    >>> ascii_url("http://h/a b/données.zip?a=%20#b")
    'http://h/a%20b/donn%C3%A9es.zip?a=%20'
    """
    parts = urllib.parse.urlsplit(url)
    # No name and password either: urllib takes them for the host. `port` raises, too.
    if not re.fullmatch(_HOST, parts.netloc) or parts.port == 0:
        raise ValueError(f"host {parts.netloc!r}")
    host = parts.netloc
    if parts.hostname and not host.isascii():
        port = f":{parts.port}" if parts.port else ""
        host = parts.hostname.encode("idna").decode() + port
    path, query = (
        urllib.parse.quote(part, safe=_SAFE, errors="surrogateescape")
        for part in (parts.path, parts.query)
    )
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def cache_folder() -> pathlib.Path:
    """Where downloads are kept."""
    if os.environ.get(CACHE_VARIABLE):
        return pathlib.Path(os.environ[CACHE_VARIABLE])
    home = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(home) if home else pathlib.Path.home() / ".cache") / "tlperf"


def fetch(
    url: str, sha256: str, *, sleep: Callable[[float], object] = time.sleep
) -> pathlib.Path:
    """The path of a file with that sha256, downloaded where the cache lacks it.

    Args:
        url: http or https.
        sha256: hexadecimal.
        sleep: waits between attempts; for tests.

    Raises:
        TlperfError: 69 unreachable or refused, 74 disk full or refused, 75 another
            process downloads it, 76 the bytes are others.
    """
    folder = cache_folder() / "downloads" / sha256
    path = folder / file_name(url)
    with io_errors(path):
        is_there = path.exists()
    if not is_there:
        with directory_lock(folder):
            if not path.exists():  # another process may just have published it
                download(url, path, sha256=sha256, sleep=sleep)
                return path
    check_sha256(
        path, sha256, remedy="remove it to download it again, or correct the hash"
    )
    return path


def download(
    url: str,
    path: pathlib.Path,
    *,
    sha256: str,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Downloads to `path`, going on with what `path`.partial holds.

    Raises:
        TlperfError: as `fetch`.
    """
    partial = path.with_name(path.name + ".partial")
    failures, had = 0, -1
    while True:
        try:
            _download_rest(url, partial)
            break
        except TransferError as error:
            size = partial.stat().st_size if partial.exists() else 0
            # Whatever came on is no failure in a row.
            failures, had = (failures if size == had else 0), size
            if not error.is_transient or failures == len(BACKOFF_SECS):
                raise TlperfError(
                    ExitCode.UNAVAILABLE,
                    "download_failed",
                    path=url,
                    found=f"{error}, {size:,} bytes are kept" if size else str(error),
                    remedy="check the URL and the network and run again",
                ) from error
            log(f"tlperf: {url}: {error}; trying again")
            sleep(BACKOFF_SECS[failures])
            failures += 1
    try:
        check_sha256(
            partial, sha256, remedy="check the URL and the hash and run again", name=url
        )
    except TlperfError:
        partial.unlink()
        raise
    with io_errors(path):
        publish(partial, path)


class TransferError(Exception):
    """A request failed.

    Attributes:
        is_transient: whether trying again may help.
    """

    def __init__(self, text: str, *, is_transient: bool = True):
        super().__init__(text)
        self.is_transient = is_transient


def _download_rest(url: str, partial: pathlib.Path) -> None:
    """One request for what is missing of `partial`; TransferError where it fails."""
    with io_errors(partial):
        have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "tlperf", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _transfer_errors():
        request = urllib.request.Request(ascii_url(url), headers=headers)
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_SECS)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 and have:
                    # Nothing follows what is here; it is whole, too long or another's.
                    if _total_bytes(error.headers) != have:
                        partial.unlink()
                        raise TransferError("the partial file does not fit") from None
                    return
                raise
        with response:
            _receive(response, partial, have=have)


@contextlib.contextmanager
def _transfer_errors() -> Iterator[None]:
    """Turns what requests raise into TransferError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise TransferError(
            f"HTTP status {error.code} ({error.reason})",
            is_transient=error.code in _TRANSIENT,
        ) from error
    except urllib.error.URLError as error:
        raise TransferError(f"not reachable ({error.reason})") from error
    except (http.client.HTTPException, OSError) as error:
        raise TransferError(f"the connection broke ({error})") from error
    except ValueError as error:
        raise TransferError(f"sent to no URL ({error})", is_transient=False) from error


def _receive(
    response: http.client.HTTPResponse, partial: pathlib.Path, *, have: int
) -> None:
    """Writes the body of an answer to `partial`, after what is there if it fits."""
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else 0
    start = 0
    if response.status == 206:
        start = have
        if _first_byte(response.headers) != have:
            partial.unlink()
            raise TransferError("the server sent another range")
    with (
        _written(partial, is_new=start == 0) as stream,
        progress_bar(total=start + total, unit="B", title=partial.stem) as bar,
    ):
        bar.unit_scale = True
        bar.update(start)
        remedy = f"free space, or set {CACHE_VARIABLE} to a folder on a larger disk"
        check_free_space(partial.parent, total, remedy=remedy)
        received = 0
        while data := response.read(_CHUNK_BYTES):
            with io_errors(partial):
                stream.write(data)
            received += len(data)
            bar.update(len(data))
    if length and received != total:
        raise TransferError(
            f"the connection ended after {received:,} of {total:,} bytes"
        )


@contextlib.contextmanager
def _written(partial: pathlib.Path, *, is_new: bool) -> Iterator[BinaryIO]:
    with io_errors(partial):
        stream = open(partial, "wb" if is_new else "ab")
    try:
        yield stream
    finally:
        with io_errors(partial):
            stream.close()


def _total_bytes(headers: email.message.Message) -> int | None:
    """The whole size that `Content-Range` tells, as in `bytes */1000`."""
    match = re.fullmatch(r"bytes .*/(\d+)", headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _first_byte(headers: email.message.Message) -> int | None:
    """Where the sent range starts, as in `bytes 500-999/1000`."""
    match = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(match[1]) if match else None
