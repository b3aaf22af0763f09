"""What somebody who can write to the store may leave there is refused in one line, and never served."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from editing.digests import canonical_json, sha256, tensor_digest
from editing.errors import ErrataError
from tasks.audit.auditing import audit
from tasks.carrying.chosen import choose, opened
from tasks.ledger.view import look
from tasks.review.asking import load_base
from tasks.review.registering import pointer
from tasks.serving.engine import Engine, NotServed
from tasks.serving.loading import load_version
from tasks.stores.manifest import Version
from tasks.workplace import Workplace, open_workplace
from tests.tasks.carried import LINE, CarriedLine

OTHER = "other"
TWO_GIB = 2 * 2**30
LARGE = b'{"a":{"dtype":"F32","shape":[536870912],"data_offsets":[0,2147483648]}}'


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> CarriedLine:
    """Versions 1 and 2, the second one in service; and another line of the same base with one."""
    made = CarriedLine(tmp_path_factory.mktemp("attacked"))
    made.make()
    second = made.make()
    made.serve(second)
    first = made.workplace.store.version(LINE, 1)
    tensors = made.workplace.store.tensors(first.manifest)
    made.workplace.store.publish(first.manifest.model_copy(update={"line": OTHER}), tensors)
    return made


@pytest.fixture
def store(untouched):
    """Its store, put back as it was afterwards."""
    root = Path(untouched.settings.store_uri)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    yield Attacked(root, untouched)
    for path in root.rglob("*"):
        if (path.is_file() or path.is_symlink()) and (path.is_symlink() or path not in before):
            path.unlink()
    for path, data in before.items():
        path.write_bytes(data)


class Attacked:
    def __init__(self, root: Path, line: CarriedLine) -> None:
        self.root, self.line = root, line
        self.version = line.workplace.store.version(LINE, 2)
        self.other = line.workplace.store.version(OTHER, 1)

    @property
    def lines(self) -> Path:
        return self.root / "lines"

    @property
    def blob(self) -> Path:
        [digest] = self.version.manifest.files.values()
        return self.root / "blobs" / f"{digest}.safetensors"

    def names(self, **changes: object) -> None:
        """The version in service is another manifest, with these changes; HEAD knows."""
        data = canonical_json(self.version.manifest.model_dump(mode="json") | changes)
        (self.root / "manifests" / f"{sha256(data)}.json").write_bytes(data)
        for path in (self.lines / LINE / "versions" / "00000002.json", self.lines / LINE / "HEAD"):
            path.write_bytes(path.read_bytes().replace(self.version.snapshot.encode(), sha256(data).encode()))

    def holds(self, data: bytes) -> None:
        """Its tensors are these bytes, rightly named by their digest."""
        (self.root / "blobs" / f"{sha256(data)}.safetensors").write_bytes(data)
        self.names(files={"update.safetensors": sha256(data)})

    def link(self, path: Path) -> None:
        elsewhere = self.line.settings.home_folder / "elsewhere"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def head_of_the_other(store: Attacked) -> None:
    (store.lines / LINE / "HEAD").write_bytes(
        (store.lines / LINE / "HEAD").read_bytes().replace(f'"line":"{LINE}"'.encode(), f'"line":"{OTHER}"'.encode())
    )


def head_names_the_other(store: Attacked) -> None:
    head = store.lines / LINE / "HEAD"
    head.write_bytes(head.read_bytes().replace(store.version.snapshot.encode(), store.other.snapshot.encode()))


def version_names_the_other(store: Attacked) -> None:
    named = {"line": LINE, "version": 2, "snapshot": store.other.snapshot}
    (store.lines / LINE / "versions" / "00000002.json").write_bytes(canonical_json(named))
    head_names_the_other(store)


ATTACKS: dict[str, tuple[Callable[[Attacked], object], str]] = {
    "a changed byte in the tensors": (lambda store: flip(store.blob), "expected sha256"),
    "a changed byte in the manifest": (
        lambda store: flip(store.root / "manifests" / f"{store.version.snapshot}.json"), "expected sha256"
    ),
    "a manifest with a path outside": (
        lambda store: store.names(files={"update.safetensors": "../../../../etc/passwd"}), "none of them hidden"
    ),
    "a parent outside": (lambda store: store.names(parent="../../HEAD"), "none of them hidden"),
    "a symlink to tensors": (lambda store: store.link(store.blob), "a link stands where a file belongs"),
    "a symlink to HEAD": (lambda store: store.link(store.lines / LINE / "HEAD"), "a link stands where a file belongs"),
    "a pickle for safetensors": (lambda store: store.holds(pickle.dumps(Bomb())), "is no safetensors file"),
    "a header of 2 GB": (lambda store: store.holds(TWO_GIB.to_bytes(8, "little") + b'{"a":'), "is no safetensors file"),
    "a header that says 2 GB of numbers": (
        lambda store: store.holds(len(LARGE).to_bytes(8, "little") + LARGE),
        "is no safetensors file",
    ),
    "HEAD of another line": (head_of_the_other, f"is of line '{OTHER}'|is damaged"),
    "HEAD with the snapshot of another line": (head_names_the_other, f"names version 1 of line '{OTHER}'"),
    "a version with the snapshot of another line": (version_names_the_other, f"version 1 of line '{OTHER}'"),
    "a parent of another line": (
        lambda store: store.names(parent=store.other.snapshot), f"builds on version 1 of line '{OTHER}'"
    ),
    "a parent that is its own child": (lambda store: store.names(version=1), "version 1 of line"),
}  # fmt: skip


def one_line(found: pytest.ExceptionInfo[ErrataError]) -> str:
    said = str(found.value)
    assert "\n" not in said and len(said) < 1000
    return said


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_somebody_left_in_the_store_is_refused_in_one_line_and_never_served(store, attack):
    harm, says = ATTACKS[attack]
    harm(store)
    workplace = open_workplace(store.line.settings)
    engine = Engine(load_base(workplace, store.line.spec), workplace.store, LINE, 1)
    with pytest.raises(NotServed, match=says) as found:
        engine.follow()
    one_line(found)
    assert engine.served is None
    with pytest.raises(ErrataError) as refused:
        look(workplace.store, workplace.ledger, LINE)
        opened(workplace, choose(workplace, LINE))
    one_line(refused)
    assert any(one.weight == "fault" for one in audit(open_workplace(store.line.settings), LINE, mlflow=False).findings)


def test_what_mlflow_points_to_is_loaded_only_as_what_it_says(store):
    workplace: Workplace = store.line.workplace
    right: Version = store.version
    with pytest.raises(ErrataError, match=f"points to version 1 of line '{OTHER}'") as found:
        load_version(pointer(workplace, right, None) | {"snapshot": store.other.snapshot}, store.line.settings)
    one_line(found)


@pytest.mark.slow
def test_with_any_file_of_the_store_gone_cut_or_changed_the_version_is_served_as_it_is_or_not_at_all(store):
    recorded = store.version.manifest.tensor_digests
    refused = []
    for path in sorted(path for path in store.root.rglob("*") if path.is_file() and path.stat().st_size):
        data = path.read_bytes()
        middle = len(data) // 2
        for other in (None, data[:middle], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]):
            path.unlink() if other is None else path.write_bytes(other)
            workplace = open_workplace(store.line.settings)
            engine = Engine(load_base(workplace, store.line.spec), workplace.store, LINE, 1)
            try:
                served = engine.follow()
            except NotServed:
                refused.append(path)
            else:
                found = {name: tensor_digest(engine.loaded.model.get_parameter(name)) for name in recorded}
                assert (served.version, found) == (2, recorded), path
            path.write_bytes(data)
    first = store.line.workplace.store.version(LINE, 1)
    consists_of = [*store.version.manifest.files.values(), *first.manifest.files.values()]
    consists_of += [store.version.snapshot, first.snapshot, "HEAD"]
    assert all([path.stem for path in refused].count(name) == 3 for name in consists_of)
