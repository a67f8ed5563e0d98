"""What stands beside the rows for a report: small pictures, the album, a GPU matrix.

evidence = read_evidence(workdir)
evidence.find(facts)     # the JPEG of a mistake or an example, or None
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.reporting.gpu_matrix import read_matrix
from tlperf.reporting.rows import Row

# Where evaluation and sharding put them; contracts of the design.
_PICTURES = ("*/mistakes/*.jpg", "examples/*.jpg")
ALBUM_NAME = "examples/examples.json"
# A small picture has a tenth of it; what is larger is none of ours, and would make the
# page as large.
_MOST_BYTES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Files beside the rows.

    Attributes:
        pictures: bytes of each picture by their sha256: what a row names is shown only
            if it is that very file.
        album: of the data, empty where none was written.
        matrix: what gpu_matrix.json holds; None where it is not there.
    """

    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    album: Row = dataclasses.field(default_factory=dict)
    matrix: Row | None = None

    def find(self, facts: Row) -> bytes | None:
        """The picture that `facts` describe; None where it is gone or another."""
        return self.pictures.get(str(facts.get("sha256")))


def read_evidence(workdir: str | pathlib.Path) -> Evidence:
    """Reads the small files of a workdir; what is not there is left out.

    Raises:
        TlperfError: 74 where one cannot be read, 76 where the album or the
            matrix is damaged.
    """
    root = pathlib.Path(workdir)
    pictures = {}
    for path in (path for pattern in _PICTURES for path in root.glob(pattern)):
        with files.io_errors(path):
            if path.stat().st_size <= _MOST_BYTES:
                data = path.read_bytes()
                pictures[files.sha256_bytes(data)] = data
    return Evidence(pictures, _read_album(root / ALBUM_NAME), read_matrix(root))


def _read_album(path: pathlib.Path) -> Row:
    if not path.exists():
        return {}
    album: Any = files.read_json(path)
    if not isinstance(album, dict):
        raise TlperfError(
            ExitCode.INTEGRITY,
            "damaged_file",
            path=path,
            found="no JSON object",
            remedy="run tlperf shard again: what is stored is kept",
        )
    return album
