"""Folder and photos: what is listed, ignored and refused."""

import os

import pytest

from tests.images import image_bytes, make_folder
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.findings import Refusal, read_item
from tlperf.dataset.shard import plan_job
from tlperf.dataset.sources import open_source
from tlperf.dataset.sources.folder import FolderSource
from tlperf.dataset.sources.listing import fit_name, is_ignored
from tlperf.dataset.sources.photos import (
    BAND_WIDTH,
    BANDS,
    CROPS,
    PHOTO_HEIGHT,
    PhotosSource,
    crop_box,
)
from tlperf.dataset.sources.tree import SPLIT_WORDS


def ids(listing):
    return [item.id for item in listing.items]


def test_lists_by_code_point_with_labels_by_class(tmp_path):
    root = make_folder(tmp_path / "pets", {"dogs": 1, "Zebra": 1, "été": 1, "cats": 2})
    listing = open_source(DataConfig(source=str(root))).read_listing()
    assert listing.classes == ("Zebra", "cats", "dogs", "été")
    assert ids(listing) == [
        "Zebra/000.jpg",
        "cats/000.jpg",
        "cats/001.jpg",
        "dogs/000.jpg",
        "été/000.jpg",
    ]
    assert listing.ignored == 0
    assert listing.items[0].class_name == "Zebra"
    assert listing.items[0].split is None


def test_order_of_creation_does_not_show(tmp_path):
    one = make_folder(tmp_path / "one", {"cats": 3, "dogs": 3})
    other = tmp_path / "two" / "one"
    for path in sorted(one.rglob("*.jpg"), reverse=True):
        copy = other / path.relative_to(one)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    listings = [FolderSource(root).read_listing() for root in (one, other)]
    assert ids(listings[0]) == ids(listings[1])


def test_counts_what_it_ignores(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 2, "dogs": 2})
    for name in ("cats/Thumbs.db", "dogs/.DS_Store", "README.txt", "stray.jpg"):
        (root / name).write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "cats" / "__MACOSX").mkdir()
    listing = FolderSource(root).read_listing()
    assert listing.ignored == 6
    assert len(listing.items) == 4


def test_a_class_may_be_called_like_an_ignored_file(tmp_path):
    root = make_folder(tmp_path / "pets", {"license": 1, "readme": 1})
    assert FolderSource(root).read_listing().classes == ("license", "readme")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"._1.jpg", True),
        (b"THUMBS.DB", True),
        (b"License.md", True),
        (b"license_plate.jpg", False),
        (b"readme.jpg", False),
    ],
)
def test_ignored_names(name, expected):
    assert is_ignored(name) is expected


def test_files_of_deeper_folders_belong_to_the_class(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats/siam": 1, "dogs": 1})
    assert ids(FolderSource(root).read_listing()) == [
        "cats/siam/000.jpg",
        "dogs/000.jpg",
    ]


def test_names_that_are_not_utf8_become_text(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1})
    path = os.path.join(os.fsencode(root), b"cats", b"\xff\n.jpg")
    with open(path, "wb") as stream:
        stream.write(image_bytes(9))
    item = FolderSource(root).read_listing().items[1]
    assert item.id == "cats/\\xff\n.jpg"
    assert item.path == b"cats/\xff\n.jpg"
    assert read_item(item, max_bytes=10**6) == image_bytes(9)


ERRORS = [
    ({}, ExitCode.DATA, "no_classes: {}: no class folder; put each class in a "),
    ({"cats": 2}, ExitCode.DATA, "one_class: {}: only one class folder, 'cats'; "),
    (
        {"cats": 2, "dogs": 0},
        ExitCode.DATA,
        "empty_class: {}: class folder 'dogs' holds no image file; put images",
    ),
]


@pytest.mark.parametrize(("classes", "code", "text"), ERRORS)
def test_refuses_what_is_no_labelled_data(tmp_path, classes, code, text):
    root = tmp_path / "pets"
    root.mkdir()
    make_folder(root, classes)
    with pytest.raises(TlperfError) as caught:
        open_source(DataConfig(source=str(root))).read_listing()
    assert caught.value.code == code
    assert caught.value.text().startswith(text.format(root))


def test_refuses_a_missing_folder(tmp_path):
    path = tmp_path / "none"
    with pytest.raises(TlperfError) as caught:
        open_source(DataConfig(source=str(path))).read_listing()
    assert caught.value.code == ExitCode.NO_INPUT
    assert caught.value.text().startswith(
        f"missing_source: {path}: no such folder; give photos, a folder with one"
    )


def test_refuses_a_linked_class_folder(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1})
    (root / "birds").symlink_to(root / "cats")
    with pytest.raises(TlperfError, match=r"special_file: .*birds: a class folder"):
        FolderSource(root).read_listing()


def linked_folder(tmp_path):
    """Links to files and folders inside and outside, and loops."""
    root = make_folder(tmp_path / "pets", {"cats": 2, "dogs/old": 1})
    outside = make_folder(tmp_path / "outside", {"birds": 1})
    links = {
        "cats/to_file.jpg": root / "cats" / "000.jpg",
        "cats/to_link.jpg": "to_file.jpg",
        "cats/to_folder": root / "dogs" / "old",
        "cats/out.jpg": outside / "birds" / "000.jpg",
        "cats/out": outside / "birds",
        "cats/nowhere.jpg": "none.jpg",
        "cats/self.jpg": "self.jpg",
        "dogs/loop": root,
        "dogs/old/up": root / "dogs",
    }
    for name, target in links.items():
        (root / name).symlink_to(str(target))
    return root


def readable(listing):
    """Ids of what can be read, and reasons of the others."""
    read, refused = [], {}
    for item in listing.items:
        data = read_item(item, max_bytes=10**6)
        if isinstance(data, Refusal):
            refused[item.id] = data.reason
        else:
            read.append(item.id)
    return read, refused


def test_links_are_refused_one_by_one(tmp_path):
    root = linked_folder(tmp_path)
    read, refused = readable(FolderSource(root).read_listing())
    assert read == ["cats/000.jpg", "cats/001.jpg", "dogs/old/000.jpg"]
    assert set(refused.values()) == {"special_file"}
    assert len(refused) == 9


def test_links_are_followed_inside_only_and_never_in_circles(tmp_path):
    root = linked_folder(tmp_path)
    read, refused = readable(FolderSource(root, follow_links=True).read_listing())
    assert read == [
        "cats/000.jpg",
        "cats/001.jpg",
        "cats/to_file.jpg",
        "cats/to_folder/000.jpg",
        "cats/to_link.jpg",
        "dogs/old/000.jpg",
    ]
    assert set(refused.values()) == {"special_file"}
    assert sorted(refused) == [
        "cats/nowhere.jpg",
        "cats/out",
        "cats/out.jpg",
        "cats/self.jpg",
        "cats/to_folder/up",
        "dogs/loop",
        "dogs/old/up",
    ]


def test_linked_class_folders_are_followed_inside_only(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1})
    (root / "birds").symlink_to("cats")
    listing = FolderSource(root, follow_links=True).read_listing()
    assert listing.classes == ("birds", "cats", "dogs")
    (root / "fish").symlink_to(tmp_path)
    with pytest.raises(TlperfError) as caught:
        FolderSource(root, follow_links=True).read_listing()
    assert caught.value.code == ExitCode.DATA
    assert caught.value.text() == (
        f"special_file: {root}/fish: a class folder that is a symbolic link; put the "
        "folder itself there (--follow_links reads links that stay inside the source)"
    )


@pytest.mark.parametrize("source_path", ["up", "link"])
def test_a_source_may_itself_be_behind_a_link(tmp_path, source_path):
    root = linked_folder(tmp_path)
    (tmp_path / "link").symlink_to(root)
    path = root / ".." / "pets" if source_path == "up" else tmp_path / "link"
    listing = FolderSource(path, follow_links=True).read_listing()
    assert len(readable(listing)[0]) == 6


def test_given_splits(tmp_path):
    classes = {f"{word}/{name}": 2 for word in SPLIT_WORDS for name in ("cats", "dogs")}
    root = make_folder(tmp_path / "pets", classes)
    (root / "train" / "stray.jpg").write_bytes(b"x")
    (root / "README.md").write_bytes(b"x")
    listing = open_source(DataConfig(source=str(root))).read_listing()
    assert listing.classes == ("cats", "dogs")
    assert listing.ignored == 2
    assert {item.id: item.split for item in listing.items} == {
        f"{word}/{name}/00{index}.jpg": split
        for word, split in SPLIT_WORDS.items()
        for name in ("cats", "dogs")
        for index in (0, 1)
    }
    dealt = open_source(DataConfig(source=str(root), keep_splits=False)).read_listing()
    assert dealt.classes == listing.classes
    assert ids(dealt) == ids(listing)
    assert {item.split for item in dealt.items} == {None}


def test_a_missing_split_is_refused_unless_splits_are_dropped(tmp_path):
    root = make_folder(
        tmp_path / "pets", {"Train/cats": 1, "Train/dogs": 1, "Test/cats": 1}
    )
    with pytest.raises(TlperfError) as caught:
        open_source(DataConfig(source=str(root))).read_listing()
    assert caught.value.code == ExitCode.DATA
    assert caught.value.text() == (
        f"missing_split: {root}: the source gives train, test, but no validation; add "
        "it, or give --nokeep_splits to deal all images by --split"
    )
    config = DataConfig(source=str(root), keep_splits=False)
    assert len(open_source(config).read_listing().items) == 3


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("train", "bus"), ("bus", "train")),  # a railway, no split
        (("train/a", "train/b", "bus/c"), ("bus", "train")),
        (("train/a", "plane/train"), ("plane", "train")),
    ],
)
def test_folders_that_only_look_like_splits(tmp_path, classes, expected):
    root = make_folder(tmp_path / "pets", dict.fromkeys(classes, 1))
    listing = open_source(DataConfig(source=str(root))).read_listing()
    assert listing.classes == expected
    assert {item.split for item in listing.items} == {None}


@pytest.mark.parametrize(
    "names", [("Cats", "cats"), ("Über", "ÜBER"), ("é", "e\u0301")]
)
def test_classes_that_differ_in_case_only_are_refused(tmp_path, names):
    root = make_folder(tmp_path / "pets", dict.fromkeys((*names, "dogs"), 1))
    with pytest.raises(TlperfError) as caught:
        FolderSource(root).read_listing()
    assert caught.value.code == ExitCode.DATA
    assert caught.value.reason == "case_collision"
    text = caught.value.text()
    assert text.startswith(f"case_collision: {root}: classes ")
    assert text.endswith(" differ in case only; put them together or rename one")


def test_photos_may_be_dealt_anew():
    listing = open_source(DataConfig(keep_splits=False)).read_listing()
    assert {item.split for item in listing.items} == {None}


def test_names_that_fit():
    names = ["catsdogs", "my pets!", "2024-pets", "猫", "_a", "a__b"]
    assert [fit_name(name) for name in names] == [
        "catsdogs",
        "my_pets",
        "data_2024_pets",
        "data",
        "a",
        "a__b",
    ]
    for name in names:
        DataConfig(name=fit_name(name))  # refuses a name that does not fit


def test_photos_are_two_classes_with_their_own_splits():
    listing = open_source(DataConfig()).read_listing()
    assert listing.classes == ("china", "flower")
    for class_name in listing.classes:
        for split, count in CROPS.items():
            members = [
                item
                for item in listing.items
                if (item.class_name, item.split) == (class_name, split)
            ]
            assert len(members) == count
    assert len(set(ids(listing))) == 400


def test_photos_crops_stay_in_the_bands_of_their_split():
    boxes = set()
    for split, count in CROPS.items():
        for index in range(count):
            left, top, right, bottom = crop_box(split, index)
            boxes.add((left, top, right, bottom))
            assert left // BAND_WIDTH == (right - 1) // BAND_WIDTH in BANDS[split]
            assert 0 <= top < bottom <= PHOTO_HEIGHT
            assert 64 <= right - left <= 128
            assert 64 <= bottom - top <= 160
    assert len(boxes) == sum(CROPS.values())
    bands = [band for members in BANDS.values() for band in members]
    assert sorted(bands) == [0, 1, 2, 3, 4]


def test_photos_read_as_equal_jpegs_each_time():
    item = PhotosSource().read_listing().items[7]
    data = item.origin.read(max_bytes=10**6)
    assert data[:2] == b"\xff\xd8"
    assert data == item.origin.read(max_bytes=10**6)


def test_limit_is_even_over_classes_and_keeps_given_splits():
    items = plan_job(DataConfig(source="photos", limit=41)).items
    counts: dict[tuple[str, str | None], int] = {}
    for item in items:
        key = item.class_name, item.split
        counts[key] = counts.get(key, 0) + 1
    assert counts == {
        ("china", "train"): 13,
        ("china", "validation"): 4,
        ("china", "test"): 4,
        ("flower", "train"): 12,
        ("flower", "validation"): 4,
        ("flower", "test"): 4,
    }


def test_limit_is_a_formula_of_ids(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 30, "dogs": 5})
    config = DataConfig(source=str(root), limit=20)
    kept = {item.id for item in plan_job(config).items}
    assert len(kept) == 20
    assert sum(text.startswith("dogs") for text in kept) == 5
    gone = next(
        item for item in FolderSource(root).read_listing().items if item.id not in kept
    )
    (root / gone.id).unlink()
    assert {item.id for item in plan_job(config).items} == kept


def test_a_limit_below_one_a_class_and_split_is_refused():
    with pytest.raises(TlperfError) as caught:
        plan_job(DataConfig(source="photos", limit=5))
    assert caught.value.code == ExitCode.DATA
    assert caught.value.reason == "limit_too_small"
    assert "give --limit at least 6" in caught.value.text()
