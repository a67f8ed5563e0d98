"""Frozen settings of what is stored; see `tlperf.core.settings`."""

import dataclasses
import re

from tlperf.core.choices import (
    Encoding,
    Exif,
    Format,
    ImageCheck,
    OnBad,
    OnWarning,
    SplitMode,
)
from tlperf.core.setting_checks import check, check_image_size, check_seed


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is stored, and how it is dealt to splits.

    Attributes:
        source: `photos`; a folder with one sub-folder a class; a .zip, .tar or .tar.gz
            of one, or its http(s) URL; a .csv of path,label[,split][,group];
            `tfds:NAME`.
        source_sha256: hexadecimal, of what a URL source gives; "" for the others.
        keep_splits: whether splits that the source gives win over `split`.
        follow_links: whether a folder's symbolic links to files inside it are read.
        name: dataset name in file names, `[a-zA-Z]\\w*`; "" takes the source's name.
        format: TFRecord or HDF5.
        encoding: what is stored of an image.
        image_size: side in pixels of `jpeg` and `raw` images; unused with `source`.
        split: percentages of train, validation and test; positive, sum 100.
        split_mode: stratified, or random as in the paper.
        seed: of the split, at least 0.
        limit: at most this many images, dealt evenly over classes; 0 takes all.
        shard_bytes: about how large a TFRecord shard is; HDF5 has one file a split.
        workers: processes that write shards; 0 takes one a core.
        max_pixels: an image of more pixels is refused from its header.
        min_side: an image with a shorter side, in pixels, is refused.
        max_file_bytes: a larger file is refused unread.
        max_jpeg_scans: a JPEG of more scans is refused undecoded.
        image_check: how far an image is read before it is stored.
        on_warning: what becomes of a JPEG that decodes with warnings.
        tfds_compat: leave out JPEGs without JFIF header, as tfds' cats_vs_dogs does.
        on_bad: quarantine unusable files, or stop at the first.
        max_bad: most quarantined files accepted; None takes max(5, 1 % of all).
        exif: whether the orientation is applied.
    """

    source: str = "photos"
    source_sha256: str = ""
    keep_splits: bool = True
    follow_links: bool = False
    name: str = ""
    format: Format = Format.TFRECORD
    encoding: Encoding = Encoding.SOURCE
    image_size: int | None = None
    split: tuple[int, int, int] = (60, 20, 20)
    split_mode: SplitMode = SplitMode.STRATIFIED
    seed: int = 0
    limit: int = 0
    # Large enough for sequential reading, small enough to be one unit of work and loss.
    shard_bytes: int = 64 * 1024 * 1024
    workers: int = 0
    # Pillow's default limit, which Pillow itself only warns of.
    max_pixels: int = 89_478_485
    min_side: int = 8
    max_file_bytes: int = 128 * 1024 * 1024
    max_jpeg_scans: int = 100
    image_check: ImageCheck = ImageCheck.DECODE
    on_warning: OnWarning = OnWarning.ACCEPT
    tfds_compat: bool = False
    on_bad: OnBad = OnBad.QUARANTINE
    max_bad: int | None = None
    exif: Exif = Exif.IGNORE

    def __post_init__(self) -> None:
        check(
            bool(self.source),
            "source",
            self.source,
            "photos, a path, a URL or tfds:NAME",
        )
        check(
            not self.name or bool(re.fullmatch(r"[a-zA-Z]\w*", self.name, re.ASCII)),
            "name",
            self.name,
            "letters, digits and underscores, a letter first",
        )
        check(
            len(self.split) == 3 and min(self.split) > 0 and sum(self.split) == 100,
            "split",
            "/".join(map(str, self.split)),
            "three positive percentages that sum to 100, e.g. 60/20/20",
        )
        check_seed(self.seed)
        check(self.limit >= 0, "limit", self.limit, "a number from 0 (0 takes all)")
        check(self.workers >= 0, "workers", self.workers, "a number from 0")
        for name in (
            "shard_bytes",
            "max_pixels",
            "min_side",
            "max_file_bytes",
            "max_jpeg_scans",
        ):
            value = getattr(self, name)
            check(value > 0, name, value, "a positive number")
        check(
            bool(re.fullmatch(r"|[0-9a-f]{64}", self.source_sha256)),
            "source_sha256",
            self.source_sha256,
            "64 hexadecimal digits, in lower case",
        )
        check(
            self.max_bad is None or self.max_bad >= 0,
            "max_bad",
            self.max_bad,
            "a number from 0",
        )
        check(
            self.encoding is Encoding.SOURCE or bool(self.image_size),
            "encoding",
            str(self.encoding),
            "--image_size with it: jpeg and raw store images at that size",
        )
        check_image_size(self.image_size)
