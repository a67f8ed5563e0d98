"""Other ways to store, decode and keep the same images, measured on some of them.

    measure_ways(dataset, config, image_size=224, compute=compute, secs=1.0)
    # [Way("--decode=fast", 1600.0, ...), Way("shard --encoding=jpeg ...", ...), ...]

Nothing is reckoned: the sample is sharded anew, in a temporary folder, by the code that
`tlperf shard` runs, and read by the code that training runs.
"""

import contextlib
import dataclasses
import pathlib
import tempfile

import numpy as np

from tlperf.core.choices import Cache, Decode, Encoding, Exif, Format, OnBadRecord
from tlperf.core.errors import TlperfError
from tlperf.core.settings import DataConfig, InputConfig
from tlperf.dataset.headers import sniff
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import StoredDataset, open_dataset
from tlperf.device.setup import Compute
from tlperf.pipeline.budget import cache_bytes, plan_memory
from tlperf.pipeline.load import is_left_out
from tlperf.pipeline.rates import measure_whole, stored_bytes

# Images of a sample, and at least so many batches of them.
_SAMPLE_IMAGES = 256
_SAMPLE_BATCHES = 2
# A sample's split: it needs three, training is what is read.
_SPLIT = (90, 5, 5)


@dataclasses.dataclass(frozen=True)
class Way:
    """Another way to the same batches.

    Attributes:
        change: the flags that make it, those of `shard` after that word.
        images_per_sec: measured.
        bytes_per_image: on the disk.
        cache_bytes: memory that it takes for all of training and validation.
        sample_images: of so many images.
    """

    change: str
    images_per_sec: float
    bytes_per_image: float
    cache_bytes: int
    sample_images: int


def measure_ways(
    dataset: StoredDataset,
    config: InputConfig,
    *,
    image_size: int,
    compute: Compute,
    secs: float,
) -> list[Way]:
    """The ways that are open to these data, `secs` seconds each; none where pixels are
    stored raw, where other processes make the batches, or where there are too few
    images to tell."""
    images = max(_SAMPLE_IMAGES, _SAMPLE_BATCHES * config.batch_size)
    is_raw = dataset.manifest.encoding == Encoding.RAW
    is_few = dataset.split("train").count < images
    if is_raw or is_few or config.data_service:
        return []

    def measure(change: str, data: StoredDataset, settings: InputConfig) -> Way:
        rate = measure_whole(
            data, settings, image_size=image_size, compute=compute, secs=secs
        )
        is_cached = settings.cache is Cache.DECODED
        return Way(
            change=change,
            images_per_sec=rate.images_per_sec,
            # A cache stands beside what is stored now, whatever it was filled from.
            bytes_per_image=stored_bytes(dataset if is_cached else data),
            cache_bytes=cache_bytes(
                dataset, settings.cache, image_bytes=3 * image_size**2
            ),
            sample_images=data.split("train").count,
        )

    with tempfile.TemporaryDirectory(prefix="tlperf-input-") as folder:
        sample = _Sample(
            dataset,
            pathlib.Path(folder),
            images,
            image_size=image_size,
            on_bad_record=config.on_bad_record,
        )
        with contextlib.closing(sample):
            tried = _open_ways(dataset, config, sample, image_size=image_size)
            return [measure(*one) for one in tried]


def _open_ways(
    dataset: StoredDataset, config: InputConfig, sample: "_Sample", *, image_size: int
) -> list[tuple[str, StoredDataset, InputConfig]]:
    """Flags, and the data and settings that stand for them; the least change first."""
    plain = dataclasses.replace(config, cache=Cache.NONE)
    fast = dataclasses.replace(plain, decode=Decode.FAST)
    cached = dataclasses.replace(config, cache=Cache.DECODED)
    raw = sample.stored_as(Encoding.RAW)
    found = []
    if config.decode is Decode.EXACT:
        found.append(("--decode=fast", dataset, fast))
    is_cached = config.cache is Cache.DECODED
    if not is_cached and fits_memory(dataset, cached, image_size=image_size):
        found.append(("--cache=decoded", raw, cached))
    if dataset.manifest.image_size != image_size:
        change = f"shard --encoding=jpeg --image_size={image_size}"
        found.append((change, sample.stored_as(Encoding.JPEG), plain))
    found.append((f"shard --encoding=raw --image_size={image_size}", raw, plain))
    return found


def fits_memory(
    dataset: StoredDataset, config: InputConfig, *, image_size: int
) -> bool:
    """Whether batches and cache stay within the memory that input may have."""
    try:
        plan_memory(dataset, config, image_size=image_size)
    except TlperfError:
        return False
    return True


class _Sample:
    """Some images of a dataset as files, and those sharded in other encodings."""

    def __init__(
        self,
        dataset: StoredDataset,
        folder: pathlib.Path,
        images: int,
        *,
        image_size: int,
        on_bad_record: OnBadRecord,
    ):
        self._folder, self._image_size, self._images = folder, image_size, images
        self._manifest = dataset.manifest
        self._stored: list[StoredDataset] = []
        split = dataset.split("train")
        for name in ("even", "odd"):  # two classes, as a source needs
            (folder / "source" / name).mkdir(parents=True)
        spread = np.linspace(0, split.count - 1, images).astype(int).tolist()
        for at, number in enumerate(spread):
            try:
                (one,) = split.read([number])
            except TlperfError as error:
                if not is_left_out(error, on_bad_record):
                    raise
                continue
            name = f"{'odd' if at % 2 else 'even'}/{number}.{sniff(one.encoded)}"
            (folder / "source" / name).write_bytes(one.encoded)

    def stored_as(self, encoding: Encoding) -> StoredDataset:
        """The sample in this encoding, at the size that is wanted."""
        data_dir = self._folder / encoding
        config = DataConfig(
            source=str(self._folder / "source"),
            name="sample",
            format=Format(self._manifest.format),
            encoding=encoding,
            image_size=self._image_size,
            split=_SPLIT,
            exif=Exif(self._manifest.exif),
            # They were accepted once, by limits that may have been others.
            max_pixels=1 << 62,
            max_file_bytes=1 << 62,
            max_jpeg_scans=1 << 30,
            min_side=1,
            max_bad=self._images,
            workers=1,
        )
        write_dataset(config, data_dir)
        self._stored.append(open_dataset(data_dir))
        return self._stored[-1]

    def close(self) -> None:
        """Closes the files."""
        for dataset in self._stored:
            dataset.close()
