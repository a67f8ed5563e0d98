"""Tables: columns, rows, splits and groups, and what is refused with its line."""

import pytest

from tests.images import make_folder
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.findings import Refusal, read_item
from tlperf.dataset.sources import open_source


def read_listing(path, **settings):
    return open_source(DataConfig(source=str(path), **settings)).read_listing()


def write_table(folder, text, name="pets.csv"):
    path = folder / name
    path.write_text(text, newline="")
    return path


def test_rows_become_items(tmp_path):
    root = make_folder(tmp_path / "pets", {"a": 2, "b": 1})
    absolute = root / "b" / "000.jpg"
    text = f"label, path\ndog,a/001.jpg\ncat,./a//000.jpg\n\ndog,{absolute}\n"
    source = open_source(DataConfig(source=str(write_table(root, text, "my pets.CSV"))))
    listing = source.read_listing()
    assert source.name == "my pets"
    assert listing.classes == ("cat", "dog")
    ids = [str(absolute), "a/000.jpg", "a/001.jpg"]
    assert [item.id for item in listing.items] == ids
    assert [item.class_name for item in listing.items] == ["dog", "cat", "dog"]
    assert {item.split for item in listing.items} == {None}
    assert {item.group for item in listing.items} == {None}
    data = [item.origin.read(max_bytes=1 << 20) for item in listing.items]
    files = [absolute, root / "a" / "000.jpg", root / "a" / "001.jpg"]
    assert data == [file.read_bytes() for file in files]


def test_a_byte_order_mark_quotes_and_line_ends_of_other_systems(tmp_path):
    text = '\ufeffPath,Label\r\n"a, ""b"".jpg",cat\r\nc\n.jpg,dog\r\n'
    text = text.replace("c\n", '"c\n').replace(".jpg,dog", '.jpg",dog')
    listing = read_listing(write_table(tmp_path, text))
    assert [item.id for item in listing.items] == ['a, "b".jpg', "c\n.jpg"]


def test_splits_and_groups(tmp_path):
    rows = [
        "split,path,label,group",
        "train,1.jpg,cat,anna",
        "TEST,2.jpg,dog, anna ",
        "val,3.jpg,cat,",
        "valid,4.jpg,dog,tom",
        "validation,5.jpg,dog,tom",
    ]
    path = write_table(tmp_path, "\n".join(rows))
    items = read_listing(path).items
    validation = ["validation"] * 3
    assert [item.split for item in items] == ["train", "test", *validation]
    assert [item.group for item in items] == ["anna", "anna", None, "tom", "tom"]
    dropped = read_listing(path, keep_splits=False).items
    assert {item.split for item in dropped} == {None}
    assert [item.group for item in dropped] == [item.group for item in items]


def test_a_missing_file_is_found_when_it_is_read(tmp_path):
    path = write_table(tmp_path, "path,label\na.jpg,cat\nb.jpg,dog\n")
    refusal = read_item(read_listing(path).items[0], max_bytes=1)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "unreadable:ENOENT"


@pytest.mark.parametrize("follow", [False, True])
def test_links(tmp_path, follow):
    root = make_folder(tmp_path / "pets", {"a": 1, "b": 1})
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(b"x")
    (root / "in.jpg").symlink_to("a/000.jpg")
    (root / "out.jpg").symlink_to(outside)
    text = "path,label\nin.jpg,cat\nout.jpg,dog\n"
    one, other = read_listing(write_table(root, text), follow_links=follow).items
    data = read_item(one, max_bytes=1 << 20)
    expected = (root / "a" / "000.jpg").read_bytes()
    assert (data == expected) is follow
    refusals = [read_item(other, max_bytes=9), *([] if follow else [data])]
    for refusal in refusals:
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "special_file"


GOOD = "path,label,split\na,cat,train\nb,dog,val\nc,cat,test\n"
ERRORS = [
    # text, reason, what the line says
    ("", "bad_columns", "line 1: no column 'path', no column 'label'; let the first"),
    ("path\na\n", "bad_columns", "line 1: no column 'label'; let the first line be"),
    (
        "path,label,size,x\n",
        "bad_columns",
        "unknown column 'size', unknown column 'x'",
    ),
    ("path,label,path\n", "bad_columns", "line 1: a column twice; let the first line"),
    ("path,label\n", "no_classes", "no row of an image; give rows of at least two"),
    ("path,label\na,cat\n", "one_class", "only label 'cat'; give rows of at least two"),
    (
        'path,label\na,"a\nb"\nb,a\\nb\nc,cat\n',
        "same_name",
        "two classes are shown as 'a\\\\nb'; rename one",
    ),
    ("path,label\na,Straße\nb,strasse\n", "case_collision", "differ in case only"),
    (GOOD + "a\0b,cat,test\n", "bad_row", "line 5: NUL in path 'a\\x00b'; mend the"),
    ("path,label\na,cat\nb,Cat\n", "case_collision", "'Cat' and 'cat' differ in case"),
    (GOOD + "./a,dog,test\n", "same_name", "line 5: 'a', as in line 2; leave one of"),
    (GOOD + "d,cat\n", "bad_row", "line 5: 2 values for 3 columns; mend the row"),
    (GOOD + "d,,test\n", "bad_row", "line 5: no label; mend the row"),
    (GOOD + ",cat,test\n", "bad_row", "line 5: no path; mend the row"),
    (GOOD + "d,cat,dev\n", "bad_row", "line 5: unknown split 'dev'; use one of train"),
    (
        GOOD + "d,cat,\n",
        "bad_row",
        "line 5: no split, though other rows have one",
    ),
    (GOOD + '"d"x,cat,test\n', "bad_row", "line 5: no row of a .csv ("),
    (
        GOOD + f"{'d' * 200_000},cat,test\n",
        "bad_row",
        "line 5: no row of a .csv (f",
    ),
    (
        GOOD.replace("val", "test"),
        "missing_split",
        "train, test, but no validation;",
    ),
]


@pytest.mark.parametrize(("text", "reason", "found"), ERRORS)
def test_refuses(tmp_path, text, reason, found):
    path = write_table(tmp_path, text)
    with pytest.raises(TlperfError) as caught:
        read_listing(path)
    assert caught.value.code == ExitCode.DATA
    assert caught.value.reason == reason
    assert caught.value.text().startswith(f"{reason}: {path}: ")
    assert found in caught.value.text()


def test_refuses_what_is_no_utf8_and_what_is_not_there(tmp_path):
    path = tmp_path / "pets.csv"
    with pytest.raises(TlperfError) as caught:
        read_listing(path)
    assert caught.value.code == ExitCode.NO_INPUT
    assert f"missing_source: {path}: no such file; give a .csv" in caught.value.text()
    path.write_bytes(b"path,label\n\xff,cat\n")
    with pytest.raises(TlperfError) as caught:
        read_listing(path)
    assert caught.value.code == ExitCode.DATA
    assert "no UTF-8 text (invalid start byte); store the table" in caught.value.text()
