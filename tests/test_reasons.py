"""Each reason of an error line, and each exit code, is in a test that names it."""

import ast
import itertools
import pathlib
import re
from collections.abc import Collection, Iterator

import pytest

from tests.images import image_bytes
from tlperf.cli import main
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import read_json, sha256_bytes
from tlperf.core.settings import DataConfig
from tlperf.dataset.examples import StoredExample, serialize_example
from tlperf.dataset.framing import frame
from tlperf.dataset.manifest import COMPLETE, MANIFEST, read_manifest
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.sources.tfds_source import Keys, _Shard

ROOT = pathlib.Path(__file__).parents[1]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
Parameters = dict[str, ast.expr | None]


def read_parameters(node: ast.AST) -> Parameters:
    """Names and defaults of what a function, or the class it makes, is called with."""
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, FUNCTION) and inner.name == "__init__":
                return read_parameters(inner)
        fields = [inner for inner in node.body if isinstance(inner, ast.AnnAssign)]
        return {ast.unparse(field.target): field.value for field in fields}
    assert isinstance(node, FUNCTION)
    words, defaults = node.args, node.args.defaults
    given = [*words.posonlyargs, *words.args]
    needed = [None] * (len(given) - len(defaults))
    names = [word.arg for word in (*given, *words.kwonlyargs)]
    named = dict(zip(names, [*needed, *defaults, *words.kw_defaults], strict=True))
    return {name: named[name] for name in names if name not in ("self", "cls")}


def _definitions(tree: ast.Module) -> Iterator[tuple[str, Parameters]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, *FUNCTION)) and node.name != "__init__":
            yield node.name, read_parameters(node)


class Scan:
    """The reasons in modules' texts by name; whatever has a parameter or a field
    `reason` gives one where it is called, so that a new one is known.

    Attributes:
        reasons: where each is given first; of an f-string its beginning and a star.
        unreadable: where the scan cannot tell which reason is given.
    """

    def __init__(self, texts: dict[str, str]):
        self.reasons: dict[str, str] = {}
        self.unreadable: list[str] = []
        trees = {name: ast.parse(text) for name, text in texts.items()}
        called = {name: dict(_definitions(tree)) for name, tree in trees.items()}
        everywhere = {
            name: words
            for local in called.values()
            for name, words in local.items()
            if "reason" in words
        }
        self._trees = list(trees.values())
        for name, tree in trees.items():
            self._parents = {
                child: node
                for node in ast.walk(tree)
                for child in ast.iter_child_nodes(node)
            }
            # A name that a module defines is its own.
            self._called = {**everywhere, **called[name]}
            for node in ast.walk(tree):
                self._scan(node, name)

    def _scan(self, node: ast.AST, module: str) -> None:
        place = f"{module}:{getattr(node, 'lineno', 0)}"
        try:
            for reason in self._given(node):
                self.reasons.setdefault(reason, place)
        except LookupError:
            self.unreadable.append(f"{place}: {ast.unparse(node).splitlines()[0]}")

    def _given(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Call):
            yield from self._called_with(node)
        elif isinstance(node, (ast.ClassDef, *FUNCTION)):
            words = read_parameters(node)
            if default := words.get("reason"):
                yield from self._read(default)
            bases = [getattr(base, "id", "") for base in getattr(node, "bases", [])]
            takes = any("reason" in self._called.get(base, ()) for base in bases)
            if takes and "reason" not in words:
                raise LookupError  # it chooses one itself
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if node.attr == "reason" and not self._is_forwarded(node):
                raise LookupError

    def _called_with(self, call: ast.Call) -> Iterator[str]:
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        names = list(self._called.get(name, ()))
        if "reason" not in names:
            return
        values = dict(zip(names, call.args, strict=False))
        values |= {word.arg: word.value for word in call.keywords if word.arg}
        if "reason" in values:
            yield from self._read(values["reason"])

    def _read(self, value: ast.expr) -> Iterator[str]:
        match value:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
                yield f"{text}*"
            case ast.IfExp():
                yield from self._read(value.body)
                yield from self._read(value.orelse)
            case ast.Attribute(attr="reason"):
                pass  # of another error, given where that was made
            case ast.Name(id="reason") if self._is_forwarded(value):
                pass
            case ast.Name():
                for one in self._values_of(value):
                    yield from self._read(one)
            case _:
                raise LookupError

    def _scopes(self, node: ast.AST) -> Iterator[ast.AST]:
        """The functions a node is in, the inmost first."""
        while node in self._parents:
            node = self._parents[node]
            if isinstance(node, FUNCTION):
                yield node

    def _is_forwarded(self, node: ast.AST) -> bool:
        """Whether it stands in what is itself called with a reason."""
        return any("reason" in read_parameters(one) for one in self._scopes(node))

    def _values_of(self, name: ast.Name) -> list[ast.expr]:
        """What the name stands for: here, or as a constant of any module."""
        functions = (ast.walk(scope) for scope in self._scopes(name))
        modules = (iter(tree.body) for tree in self._trees)
        for nodes in itertools.chain(functions, modules):
            found = [
                node.value
                for node in nodes
                if isinstance(node, ast.Assign)
                and any(ast.unparse(target) == name.id for target in node.targets)
            ]
            if found:
                return found
        raise LookupError


# The other rooms' tests go by the text of their errors.
ROOMS = ("cli.py", "core/", "dataset/", "pipeline/", "job/outcome.py")
SCAN = Scan(
    {
        str(path.relative_to(ROOT / "tlperf")): path.read_text()
        for path in sorted((ROOT / "tlperf").rglob("*.py"))
    }
)
TESTS = [ast.parse(path.read_text()) for path in sorted(ROOT.glob("tests/*.py"))]


def find_texts(tree: ast.Module) -> Iterator[str]:
    """The strings of a test, without docstrings and parts of paths."""
    others = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            others.add(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            others |= {node.left, node.right}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node not in others:  # a parent is walked before its children
                yield node.value


TEXTS = {text for tree in TESTS for text in find_texts(tree)}


def is_named(reason: str, texts: set[str], others: Collection[str] = ()) -> bool:
    """Whether one of the texts is the reason, or has it with a colon behind."""
    word = re.escape(reason).replace(r"\*", r"\w+")
    pattern = re.compile(rf"\A({word})\Z|(?<![\w:])({word}):(?!\w)")
    found = {one for text in texts for pair in pattern.findall(text) for one in pair}
    return not found <= {"", *others}


def test_the_scan_reads_every_reason():
    assert SCAN.unreadable == []


@pytest.mark.parametrize(
    ("reason", "place"),
    [pair for pair in SCAN.reasons.items() if pair[1].startswith(ROOMS)],
)
def test_each_reason_is_in_a_test(reason, place):
    # What an f-string makes is another one than those written out.
    others = SCAN.reasons if reason.endswith("*") else ()
    assert is_named(reason, TEXTS, others), f"{reason} of {place} is in no test"


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ('OddError("a_b", 1)', ["a_b"]),
        ('m.OddError(detail=1, reason="a_b")', ["a_b"]),
        ('OddError("a_b" if x else f"c:{x}", 1)', ["a_b", "c:*"]),
        ('def f(reason="a_b"): raise OddError(reason, 1)', ["a_b"]),
        ('def f(x, reason): raise OddError(reason, x)\nf(1, "a_b")', ["a_b"]),
        ('def f():\n  y = "a_b"\n  def g(): raise OddError(y, 1)', ["a_b"]),
        ("OddError(other.reason, 1)", []),
        ("class OddError(Exception): pass\nOddError(x)", []),  # another one
        ("def f(slug): raise OddError(slug, 1)", None),
        ("OddError(TABLE[x], 1)", None),
        ('OddError(f"{x}_b", 1)', None),
        ("class EvenError(OddError): pass", None),
        ('error.reason = "a_b"', None),
    ],
)
def test_the_scan(text, reasons):
    """None: it says that it cannot read this."""
    odd = "class OddError(Exception):\n  def __init__(self, reason, detail): ..."
    scan = Scan({"odd": odd, "new": text})
    assert (list(scan.reasons) if not scan.unreadable else None) == reasons


@pytest.mark.parametrize(
    ("reason", "text", "found"),
    [
        ("a_b", "a_b", True),
        ("a_b", "E65 a_b: file", True),
        ("a_b", "a_bc", False),
        ("a_b", "an a_b", False),
        ("a_b", "not_a_b: file", False),
        ("a_b", "c:a_b", False),
        ("a_*", "a_c", True),
        ("a_*", "a_c: file", True),
        ("a_*", "a_b", False),  # another reason
    ],
)
def test_a_name_is_a_whole_word(reason, text, found):
    assert is_named(reason, {text}, {"a_b"} - {reason}) is found


def find_codes(tree: ast.Module) -> Iterator[str]:
    """Exit codes that a test names, or compares a code with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ExitCode":
            yield node.attr
        elif isinstance(node, ast.Compare):
            if re.search(r"\b(return)?code\b|main\(", ast.unparse(node)):
                words = {getattr(one, "value", None) for one in ast.walk(node)}
                yield from (code.name for code in ExitCode if code in words)


CODES = {name for tree in TESTS for name in find_codes(tree)}


@pytest.mark.parametrize("code", list(ExitCode))
def test_each_exit_code_is_in_a_test(code):
    assert code.name in CODES


# Reasons that no other test names.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["shard", "--sources=x"], "unknown_flag: no flag is called --sources; did"),
        (["shards"], "unknown_command: no command is called shards; did"),
    ],
)
def test_a_word_that_is_unknown(arguments, text, capsys):
    assert main(arguments) == ExitCode.USAGE
    assert text in capsys.readouterr().err


def test_files_of_json(tmp_path):
    path = tmp_path / "x.json"
    for code, reason in (
        (ExitCode.NO_INPUT, "missing_file"),
        (ExitCode.INTEGRITY, "damaged_file"),
    ):
        with pytest.raises(TlperfError) as caught:
            read_json(path)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert caught.value.path == str(path)
        path.write_text("{")


def test_a_folder_of_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    config = DataConfig(source="photos", limit=40, workers=1)
    with pytest.raises(TlperfError, match=r"other_files: .*'thesis\.tex'; give an em"):
        write_dataset(config, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "is_sealed", "code", "reason"),
    [
        ("{}", False, ExitCode.INTEGRITY, "damaged_manifest"),
        (None, False, ExitCode.INTEGRITY, "missing_manifest"),
        ('{"schema_version": 99}', True, ExitCode.CONFIG, "other_schema"),
    ],
)
def test_manifests(text, is_sealed, code, reason, tmp_path):
    seal = sha256_bytes((text or "").encode()) if is_sealed else "0" * 64
    (tmp_path / COMPLETE).write_text(f"{seal}\n")
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(TlperfError) as caught:
        read_manifest(tmp_path)
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.path == str(tmp_path / MANIFEST)


def test_a_label_of_no_class(tmp_path):
    """A record as tfds writes it, whose label its description does not have."""
    example = StoredExample(image_bytes(1), 2, "a.jpg", 1, 24, 32, "")
    path = tmp_path / "pets-train.tfrecord-00000-of-00001"
    path.write_bytes(frame(serialize_example(example, class_name="cats")))
    keys = Keys(image="image/encoded", label="image/class/label", filename="")
    for classes, reason in ((["a", "b", "cats"], None), (["a", "cats"], "bad_label")):
        shard = _Shard(str(path), "train", 1, keys, classes)
        if reason is None:
            assert [item.class_name for item in shard.items()] == ["cats"]
            continue
        with pytest.raises(TlperfError) as caught:
            list(shard.items())
        assert (caught.value.code, caught.value.reason) == (ExitCode.DATA, reason)
        assert (caught.value.path, caught.value.record) == (str(path), 0)
