"""Where images come from: a source lists items; an item can read its bytes.

listing = open_source(DataConfig(source="catsdogs")).read_listing()
listing.items[0].id, listing.items[0].class_name    # 'cats/cat.1.jpg', 'cats'
"""

import dataclasses
import pathlib
import re

from tlperf.core.errors import SettingsError
from tlperf.core.settings import DataConfig
from tlperf.dataset.sources.folder import FolderSource
from tlperf.dataset.sources.listing import PHOTOS, Listing, Source, settle_splits

TFDS = "tfds:"


@dataclasses.dataclass(frozen=True)
class SettledSource:
    """A source whose given splits are whole, or left out.

    Attributes:
        source: any source.
        keep_splits: whether the splits it gives are kept.
        path: of the source, for errors.
    """

    source: Source
    keep_splits: bool
    path: str

    @property
    def name(self) -> str:
        """What the source is called."""
        return self.source.name

    def read_listing(self) -> Listing:
        """All items; either each has a split, and all three exist, or none has."""
        listing = self.source.read_listing()
        return settle_splits(listing, keep=self.keep_splits, path=self.path)


def open_source(config: DataConfig) -> SettledSource:
    """The source that `--source` names; nothing is read or downloaded yet."""
    return SettledSource(_open(config), config.keep_splits, config.source)


def _open(config: DataConfig) -> Source:
    # Imports where they are needed: each kind brings its own library, and worker
    # processes import this module.
    text, sha256 = config.source, config.source_sha256
    scheme = re.match(r"(\w[\w+.-]*)://", text)
    if scheme:
        from tlperf.dataset.sources.download import DownloadSource

        return DownloadSource(text, sha256)
    path = pathlib.Path(text)
    # A FIFO or device too: the source says what it is, and does not open it.
    is_file = path.exists() and not path.is_dir()
    is_archive = is_file and path.suffix.lower() != ".csv"
    if sha256 and not is_archive:
        raise SettingsError(
            f"source_sha256 is given with {text!r}, which is no file of an archive",
            "give it with a URL or an archive only",
        )
    if text == PHOTOS:
        from tlperf.dataset.sources.photos import PhotosSource

        return PhotosSource()
    if text.startswith(TFDS):
        from tlperf.dataset.sources.tfds_source import TfdsSource

        return TfdsSource(text.removeprefix(TFDS))
    if is_archive:
        from tlperf.dataset.sources.archive import ArchiveSource

        return ArchiveSource(path, sha256)
    if path.suffix.lower() == ".csv" and not path.is_dir():
        from tlperf.dataset.sources.table import TableSource

        return TableSource(path, follow_links=config.follow_links)
    return FolderSource(path, follow_links=config.follow_links)
