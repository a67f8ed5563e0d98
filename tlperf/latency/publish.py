"""A network exported, compared with itself, and only then given its file's name.

    check = ParityCheck(images, probability, "test split")
    description = export_checked(network, path, kind, check=check, describe=describe)

Beside the file is a JSON of what a user needs to serve it, written first: a file with
its name always has one.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.core import files
from tlperf.core.choices import ExportFormat
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.quiet import quiet_stderr
from tlperf.latency.description import (
    Description,
    description_path,
    hash_files,
    top_names,
)
from tlperf.latency.export import export_network
from tlperf.latency.exported import first_line, open_exported
from tlperf.latency.parity import (
    PARITY_LIMIT,
    largest_logit,
    relative_difference,
)


@dataclasses.dataclass(frozen=True)
class ParityCheck:
    """What an export must give.

    Attributes:
        images: uint8 [N, S, S, 3], RGB.
        probability: float32 [N, C], of the network itself.
        origin: of the images, in words.
        limit: most difference of a logit, as a share of the largest.
    """

    images: np.ndarray
    probability: np.ndarray
    origin: str
    limit: float = PARITY_LIMIT


def check_target(path: pathlib.Path, kind: ExportFormat) -> None:
    """Refuses to replace what tlperf did not export (exit code 73)."""
    beside = description_path(path)
    own = {name.partition("/")[0] for name in _described_files(beside)}
    own |= {beside.name} if own else set()
    for name in {beside.name, *top_names(path, kind)} - own:
        if (there := path.with_name(name)).exists():
            raise TlperfError(
                ExitCode.EXISTS,
                "other_files",
                path=there,
                found=f"is there, and {beside.name} does not say that tlperf wrote it",
                remedy="give another --out, or remove it",
            )


def _described_files(beside: pathlib.Path) -> Collection[str]:
    """Names of the files of an earlier export; none where there is none."""
    if not beside.exists():
        return ()
    try:
        return Description.from_dict(files.read_json(beside)).files
    except (KeyError, TypeError, ValueError, TlperfError):
        return ()


def clear_partials(path: pathlib.Path) -> None:
    """Removes what killed exports of this name left; the folder is locked."""
    for one in path.parent.iterdir():
        match = files.PARTIAL.fullmatch(one.name)
        if match and match[1] == path.name and one.is_dir():
            shutil.rmtree(one)


def export_checked(
    network: keras.Model,
    path: pathlib.Path,
    kind: ExportFormat,
    *,
    check: ParityCheck,
    describe: Callable[..., Description],
    decode: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> Description:
    """Exports a network and opens it in its own runtime; of one whose outputs differ
    nothing is left.

    Args:
        network: images uint8 [B, S, S, 3] to probabilities float32 [B, C].
        path: of the file to be; one of ours is replaced.
        kind: its format.
        check: what it must give.
        describe: called with `format`, `parity` and `files` to the description.
        decode: of a SavedModel's signature of image files.

    Raises:
        TlperfError: 69 where exporter or runtime is missing, 73 where something else is
            there, 74 where the system refuses a write, 76 where outputs differ, 78
            where the exporter cannot write this network.
    """
    check_target(path, kind)
    with files.staging_folder(path) as staging:
        made = staging / path.name
        with _naming_failures(network, kind):
            export_network(network, made, kind, decode=decode)
            parity = _check_parity(made, kind, path=path, check=check)
        facts = hash_files(made, kind)
        description: Description = describe(format=kind, parity=parity, files=facts)
        files.write_json(staging / description_path(path).name, description.to_dict())
        # Whoever finds the file finds all that belongs to it: its own name is the last.
        names = [description_path(path).name, *reversed(top_names(path, kind))]
        files.publish_all(names, staging)
    return description


@contextlib.contextmanager
def _naming_failures(network: keras.Model, kind: ExportFormat) -> Iterator[None]:
    """Exporters and runtimes raise kinds of their own, some of them for networks that
    they do not know."""
    try:
        yield
    except (MemoryError, OSError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:
        if isinstance(error, TlperfError) and error.reason != "bad_model":
            raise
        text = error.found if isinstance(error, TlperfError) else first_line(error)
        raise TlperfError(
            ExitCode.CONFIG,
            "export_failed",
            found=f"{network.name} as {kind}: {text}",
            remedy="choose another --export_format",
        ) from error


def _check_parity(
    made: pathlib.Path, kind: ExportFormat, *, path: pathlib.Path, check: ParityCheck
) -> dict[str, Any]:
    with quiet_stderr():
        probability = open_exported(made, kind)(check.images)
    difference = relative_difference(probability, check.probability)
    if not difference <= check.limit:
        raise TlperfError(
            ExitCode.INTEGRITY,
            "parity",
            path=path,
            found=f"logits of {len(check.images)} images differ by {difference:.2g} of "
            f"the largest, the limit is {check.limit:g}; nothing was kept",
            remedy="choose another --export_format, or report this with the versions "
            "of tlperf doctor",
        )
    return {
        "images": len(check.images),
        "origin": check.origin,
        "max_relative_difference": difference,
        "limit": check.limit,
        "largest_logit": largest_logit(check.probability),
    }
