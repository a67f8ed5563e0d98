"""Where a backbone's weights come from, found and checked before anything is built.

    source = find_weights(spec, "imagenet")        # Keras' file, cached or downloaded
    source = find_weights(spec, "weights_folder")  # NAME_notop.weights.h5 in it
    source.load(backbone)

Finding needs no TensorFlow, so a run stops within a second where weights are missing.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import os
import pathlib
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.progress import log, progress_bar
from tlperf.reference.backbones import (
    KERAS_PREFIX,
    BackboneSpec,
    WeightsFile,
    find_backbone,
)

# The trained weights in a backbone's folder.
WEIGHTS_NAME = "weights.h5"

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECS = 20


@dataclasses.dataclass(frozen=True)
class WeightsSource:
    """The weights of one backbone.

    Attributes:
        kind: `none` (random), `imagenet` (Keras' own file), or `file`.
        path: the file; None for `none`.
        sha256: of the file.
        extra_rescaling: whether the file was trained with one more division by
            sqrt(std) than the `weights=None` network has (EfficientNet).
    """

    kind: str
    path: pathlib.Path | None = None
    sha256: str | None = None
    extra_rescaling: bool = False

    def facts(self) -> dict[str, Any]:
        """What a result row says about the weights."""
        return {
            "kind": self.kind,
            "file": self.path.name if self.path else None,
            "sha256": self.sha256,
        }

    def load(self, backbone: Any) -> None:
        """Loads the file into a trunk built with `weights=None, include_top=False`.

        Raises:
            TlperfError: 78 where the file does not fit the network.
        """
        if self.path is None:
            return
        load_keras_weights(backbone, self.path)
        if self.extra_rescaling:
            _fold_extra_rescaling(backbone)


def load_keras_weights(model: Any, path: pathlib.Path) -> None:
    """Loads weights only; no code in the file is ever run.

    Raises:
        TlperfError: 66 where the file is missing, 78 where it does not fit.
    """
    _require_file(path)
    with _keras_name(path) as named, warnings.catch_warnings():
        # Keras only warns where a file lacks a layer, and leaves it at random.
        warnings.simplefilter("error", UserWarning)
        try:
            model.load_weights(named)
        except (ValueError, OSError, KeyError, UserWarning) as error:
            reason = str(error).strip().splitlines()[0]
            if isinstance(error, UserWarning):
                # What follows in it is as if loading had gone on.
                reason = reason.split(". ")[0]
            reason = reason.rstrip(".")
            raise TlperfError(
                ExitCode.CONFIG,
                "weights_mismatch",
                path=path,
                found=f"does not fit {model.name} ({reason})",
                remedy="these are weights of another network, or of part of one; give "
                "those of this backbone without its top",
            ) from error


def save_keras_weights(model: Any, path: pathlib.Path) -> None:
    """Writes the weights atomically and durably, in Keras 3's layout."""
    with files.atomic_path(path) as partial:
        # Keras writes that layout under this suffix only.
        named = partial.with_name(f"{partial.name}.weights.h5")
        try:
            model.save_weights(named)
            named.rename(partial)
        finally:
            named.unlink(missing_ok=True)


@contextlib.contextmanager
def _keras_name(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """`path` under a name that Keras knows.

    Keras 3 chooses its reader by the suffix: `.weights.h5` is its own layout, a plain
    `.h5` the one of Keras 2. The layout inside says which a file is.
    """
    import h5py

    with files.io_errors(path), h5py.File(path, "r") as stored:
        is_keras_2 = "layer_names" in stored.attrs or "model_weights" in stored
    suffix = ".h5" if is_keras_2 else ".weights.h5"
    if path.name.endswith(suffix) and path.name.endswith(".weights.h5") != is_keras_2:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = pathlib.Path(folder) / f"linked{suffix}"
        link.symlink_to(path.resolve())
        yield link


def _fold_extra_rescaling(backbone: Any) -> None:
    """Makes the `weights=None` network compute what Keras' ImageNet network does.

    With `weights="imagenet"` Keras appends Rescaling(1 / sqrt(std)) to the
    Normalization layer, whose variance is std**2; folding it into that layer's variance
    keeps the layer list of Table 2. The stored variance v is std**2 here, and
    (x - m) / sqrt(v) / sqrt(sqrt(v)) is (x - m) / sqrt(v * sqrt(v)).
    """
    import keras

    (layer,) = [
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.Normalization)
    ]
    variance = keras.ops.convert_to_numpy(layer.adapt_variance)
    layer.adapt_variance.assign(variance * variance**0.5)
    layer.finalize_state()


def parse_weights(text: str) -> dict[str, str] | str:
    """`--weights` as one word for every backbone, or as `{backbone: word}`.

    >>> parse_weights("none"), parse_weights("xception:a.h5,keras:VGG19:none")
    ('none', {'xception': 'a.h5', 'keras-vgg19': 'none'})
    """
    pairs = [_split_pair(part) for part in text.split(",")]
    if not all(colon and name.strip() for name, colon, _ in pairs):
        return text
    if len(pairs) == 1 and ("/" in pairs[0][0] or "." in pairs[0][0]):
        return text
    return {find_backbone(name).name: word for name, _, word in pairs}


def _split_pair(text: str) -> tuple[str, str, str]:
    """Backbone, colon and word; the colon of `keras:NAME` belongs to the backbone."""
    name, colon, word = text.partition(":")
    if name.strip().lower() == KERAS_PREFIX and ":" in word:
        inner, colon, word = word.partition(":")
        name = f"{name}:{inner}"
    return name, colon, word


def find_weights(
    spec: BackboneSpec, weights: str, *, download: bool = True
) -> WeightsSource:
    """The weights `--weights` names for a backbone.

    Args:
        spec: row of the backbone table.
        weights: value of `--weights`.
        download: whether Keras' file may be fetched where it is not cached.

    Raises:
        TlperfError: 64 where a per-backbone list leaves this backbone out, 66 where a
            file is missing, 69 where Keras' file is neither cached nor downloadable,
            76 where its hash is wrong.
    """
    parsed = parse_weights(weights)
    if isinstance(parsed, dict):
        if spec.name not in parsed:
            raise SettingsError(
                f"--weights names no weights for {spec.name}",
                f"add {spec.name}:imagenet, {spec.name}:none or {spec.name}:FILE",
            )
        parsed = parsed[spec.name]
    if parsed == "none":
        return WeightsSource("none")
    if parsed == "imagenet":
        return _imagenet(spec, download=download)
    path = pathlib.Path(parsed).expanduser()
    if path.is_dir():
        path = _file_in_folder(spec, path)
    _require_file(path)
    is_imagenet = spec.imagenet is not None and _is_known(spec.imagenet, path)
    return WeightsSource(
        "imagenet" if is_imagenet else "file",
        path=path,
        sha256=files.sha256_file(path),
        extra_rescaling=_has_extra_rescaling(spec, path, is_imagenet=is_imagenet),
    )


def _has_extra_rescaling(
    spec: BackboneSpec, path: pathlib.Path, *, is_imagenet: bool
) -> bool:
    """Whether the file belongs to the network with Keras' extra Rescaling layer.

    Keras' own file does; so does one that Keras 3 saved from a `weights="imagenet"`
    network: it holds a group for the second Rescaling layer, without a value in it.
    """
    if spec.imagenet is None or not spec.imagenet.extra_rescaling:
        return False
    import h5py

    with files.io_errors(path), h5py.File(path, "r") as stored:
        return is_imagenet or "layers/rescaling_1" in stored


def _file_in_folder(spec: BackboneSpec, folder: pathlib.Path) -> pathlib.Path:
    names = [f"{spec.name}_notop.weights.h5"]
    if spec.imagenet is not None:
        names.append(spec.imagenet.name)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise TlperfError(
        ExitCode.NO_INPUT,
        "missing_weights",
        path=folder,
        found=f"no weights for {spec.name} in this folder",
        remedy=f"put {' or '.join(names)} there, leave {spec.name} out of --backbones, "
        f"or name its weights with --weights={spec.name}:none,...",
    )


def _require_file(path: pathlib.Path) -> None:
    if not path.is_file():
        raise TlperfError(
            ExitCode.NO_INPUT,
            "missing_weights",
            path=path,
            found="no such weights file",
            remedy="give imagenet, none, a folder or a file",
        )


def keras_cache() -> pathlib.Path:
    """Folder where Keras itself keeps downloaded weights."""
    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    return pathlib.Path(home) / "models"


def _imagenet(spec: BackboneSpec, *, download: bool) -> WeightsSource:
    if spec.imagenet is None:
        raise SettingsError(
            f"no ImageNet file is known for {spec.name}",
            "give none, a folder or a file",
        )
    path = keras_cache() / spec.imagenet.name
    if not path.is_file():
        if not download:
            raise _not_available(spec, spec.imagenet, "not downloaded yet")
        _download(spec, spec.imagenet, path)
    _check_hash(spec.imagenet, path)
    if not spec.imagenet.file_hash:
        log(
            f"{spec.name}: Keras states no hash of {path.name}; the result holds the "
            "sha256 of what is there"
        )
    return WeightsSource(
        "imagenet",
        path=path,
        sha256=files.sha256_file(path),
        extra_rescaling=spec.imagenet.extra_rescaling,
    )


def _download(spec: BackboneSpec, file: WeightsFile, path: pathlib.Path) -> None:
    network_errors = (OSError, http.client.HTTPException)
    try:
        response = urllib.request.urlopen(file.url, timeout=_TIMEOUT_SECS)
    except network_errors as error:
        raise _not_available(spec, file, f"cannot be downloaded: {error}") from error
    size = int(response.headers.get("Content-Length") or 0)
    with (
        response,
        files.atomic_path(path) as partial,
        open(partial, "wb") as stream,
        progress_bar(total=size, unit="B", title=file.name) as bar,
    ):
        while True:
            try:
                chunk = response.read(_CHUNK_BYTES)
            except network_errors as error:
                why = f"the download broke off: {error}"
                raise _not_available(spec, file, why) from error
            if not chunk:
                break
            stream.write(chunk)
            bar.update(len(chunk))
        stream.flush()
        # Before the file gets its name: a wrong one is never seen.
        found = stream.tell()
        if size and found != size:
            why = f"the download broke off after {found} of {size} bytes"
            raise _not_available(spec, file, why)
        _check_hash(file, partial)


def _not_available(spec: BackboneSpec, file: WeightsFile, why: str) -> TlperfError:
    return TlperfError(
        ExitCode.UNAVAILABLE,
        "no_imagenet_weights",
        path=file.url,
        found=f"the ImageNet weights of {spec.name} are not in {keras_cache()} ({why})",
        remedy="choose --weights=none (random weights), --weights=DIR (a folder with "
        f"{spec.name}_notop.weights.h5 or {file.name}) or --weights=FILE",
    )


def _hash_kind(file: WeightsFile) -> str:
    return "sha256" if len(file.file_hash) == 64 else "md5"


def _hash(path: pathlib.Path, kind: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def _is_known(file: WeightsFile, path: pathlib.Path) -> bool:
    """Whether the file's content is Keras' own, as far as Keras states its hash."""
    return _hash(path, _hash_kind(file)) == file.file_hash


def _check_hash(file: WeightsFile, path: pathlib.Path) -> None:
    if not file.file_hash:
        return
    kind = _hash_kind(file)
    found = _hash(path, kind)
    if found != file.file_hash:
        raise TlperfError(
            ExitCode.INTEGRITY,
            "weights_hash",
            path=path,
            found=f"{kind} {found}, expected {file.file_hash}",
            remedy="delete the file and run again",
        )
