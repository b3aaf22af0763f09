"""Laws of records: nothing is stored that does not read back equal, and what release 0.1 stored is read for ever."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from editing.digests import canonical_json, sha256
from editing.errors import UsageError
from editing.methods import method_config
from tasks.lines.specs import LineSpec, read_line, resolve_line, save_line, spec_key
from tasks.settings import Settings
from tasks.stores.errors import NewerFormat, RecordError
from tasks.stores.lease import LeaseRecord, acquire
from tasks.stores.manifest import Head, Manifest, VersionPointer, head_bytes, manifest_bytes, members
from tasks.stores.records import read_record, record_bytes
from tasks.stores.snapshots import SnapshotStore
from tests.tasks.test_snapshots import LINE, manifest, tensors

NO_UTF8 = "caf\udce9"
"""What the shell's byte E9 is in Python."""

anything = st.text(st.characters(exclude_categories=()))
OLD = (
    b'{"base":"embedded","base_digest":"bb","batch":1,"config":{"layers":[4,5],"method":"memit"},'
    b'"created":"2026-11-22T00:00:00+00:00","files":{"update.safetensors":"72"},"flow_run_id":"run","format":1,'
    b'"line":"old","metrics":{"efficacy_prob":1.0},"mlflow_run_id":null,"parent":null,"request_ids":["r1","r2"],'
    b'"request_metrics":{"r1":{"efficacy_prob":1.0}},"tensor_digests":{"w":"dd"},"version":1}'
)
"""A manifest as release 0.1 wrote it."""


def head(**changes):
    fields = {"line": LINE, "sequence": 1, "version": 0, "snapshot": None, "previous": None, "action": "promote"}
    fields |= {"actor": "ann", "reason": "", "moved": datetime.now(UTC), "token": "t"}
    return Head(**(fields | changes))


def lease_record(**changes):
    now = datetime.now(UTC)
    fields = {"line": LINE, "owner": "o", "host": "h", "machine": "m", "pid": 1, "process_started": 0.5}
    fields |= {"started": now, "renewed": now, "ttl_seconds": 9.0, "flow_run_id": None}
    return LeaseRecord(**(fields | changes))


@given(anything, anything)
def test_whatever_a_user_wrote_is_stored_and_read_back_equal(one, two):
    records = [
        head(actor=one, reason=two),
        manifest(base=one, request_ids=(one, two), request_metrics={one: {}}, config={one: [two]}, removed=(two,)),
        lease_record(host=one, machine=two, flow_run_id=two),
        LineSpec(line=LINE, model=one, dtype=two),
    ]
    for record in records:
        assert read_record(type(record), record_bytes(record), "it") == record


def test_text_that_is_utf8_is_stored_as_it_was_written():
    assert head(reason="café ⚑").reason == "café ⚑" and head(reason=NO_UTF8).reason == r"caf\udce9"


def test_a_reason_with_a_byte_that_is_no_utf8_leaves_head_readable(folder):
    snapshots = SnapshotStore(folder)
    moved = snapshots.move_head(LINE, None, None, "promote", NO_UTF8, NO_UTF8)
    assert SnapshotStore(folder).head(LINE) == moved and SnapshotStore(folder).heads(LINE) == [moved]


def test_what_could_not_be_read_again_is_refused_before_anything_is_stored(folder):
    unreadable = {"flow_run_id": NO_UTF8}
    for store in (
        lambda: SnapshotStore(folder).publish(manifest().model_copy(update=unreadable), tensors()),
        lambda: SnapshotStore(folder).publish(manifest().model_copy(update={"metrics": {"a": float("nan")}}), {}),
        lambda: save_line(folder, LineSpec(line=LINE, model="m").model_copy(update={"model": NO_UTF8})),
        lambda: folder.put("HEAD", head_bytes(head().model_copy(update={"reason": NO_UTF8}))),
        lambda: folder.put("job", record_bytes(lease_record().model_copy(update=unreadable))),
    ):
        with pytest.raises(RecordError, match="nothing was written"):
            store()
    assert folder.list("") == []


def test_a_manifest_of_release_0_1_keeps_its_bytes_and_so_its_snapshot_id():
    old = read_record(Manifest, OLD, "it")
    assert manifest_bytes(old) == OLD
    assert (old.format, old.based_on, old.live, old.removed) == (1, None, None, ())
    assert b"based_on" in manifest_bytes(manifest())


def test_a_head_is_spelled_as_release_0_1_did_unless_it_refuses_versions():
    """The digest of those bytes names its entry in the history."""
    assert json.loads(head_bytes(head())).keys() == {
        "line", "sequence", "version", "snapshot", "previous", "action", "actor", "reason", "moved", "token"
    }  # fmt: skip
    refusal = head(action="reject", rejected=(2, 3))
    assert read_record(Head, head_bytes(refusal), "it") == refusal


def test_a_chain_of_release_0_1_is_gone_on_with(folder):
    pointer = {"line": "old", "version": 1, "snapshot": sha256(OLD)}
    folder.put(f"manifests/{sha256(OLD)}.json", OLD)
    folder.put("lines/old/versions/00000001.json", canonical_json(pointer))
    snapshots = SnapshotStore(folder)
    old = snapshots.version("old", 1)
    new = snapshots.publish(manifest(2, old.snapshot, line="old", based_on=1), tensors())
    assert [item.format for item in SnapshotStore(folder).chain(new.snapshot)] == [1, 2]
    assert list(members(snapshots.chain(new.snapshot))) == ["r1", "r2"]  # manifest() names version 2's request r2


def test_a_head_that_release_0_1_wrote_and_could_not_read_is_read_with_what_it_says(folder):
    values = json.loads(head_bytes(head(version=0)))
    bytes_of_0_1 = canonical_json(values | {"actor": NO_UTF8, "reason": NO_UTF8})
    for key in ("HEAD", "heads/00000001-0123456789ab.json"):
        folder.put(f"lines/{LINE}/{key}", bytes_of_0_1)
    snapshots = SnapshotStore(folder)
    seen = snapshots.head(LINE)
    assert seen is not None and seen.reason == r"caf\udce9" and snapshots.repair_head(LINE) == seen
    moved = snapshots.move_head(LINE, None, seen, "rollback", "bob", "on")
    assert [item.token for item in SnapshotStore(folder).heads(LINE)] == ["t", moved.token]


@pytest.mark.parametrize("record", [manifest(), head(), lease_record(), VersionPointer(line=LINE, version=1,
                                    snapshot="a" * 64)], ids=lambda one: type(one).__name__)  # fmt: skip
def test_a_record_of_a_later_release_is_refused_by_name(record):
    data = canonical_json(json.loads(record_bytes(record)) | {"format": 3, "more": {}})
    with pytest.raises(NewerFormat, match=r"^it was written by a newer Errata \(format 3, .*\): update$"):
        read_record(type(record), data, "it")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"line": 1}', b"[" * 100_000])
def test_damage_is_one_line_that_names_the_record(data):
    with pytest.raises(RecordError, match=r"^it cannot be read, it is damaged") as caught:
        read_record(Head, data, "it")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_newer_lease_or_version_is_not_taken_for_a_damaged_one(folder):
    folder.put(f"lines/{LINE}/job.json", b'{"format": 2}')
    folder.put(f"lines/{LINE}/line.json", b'{"format": 2}')
    for look in (lambda: acquire(folder, LINE), lambda: read_line(folder, LINE)):
        with pytest.raises(NewerFormat, match=f"{LINE}.*newer Errata"):
            look()


# What a version says that is made anew.


def test_a_root_names_what_is_live_and_what_came_before_it_counts_no_more():
    first, second = manifest(1, request_ids=("a", "b")), manifest(2, "s1", request_ids=("c",), removed=("a",))
    root = manifest(3, None, request_ids=("d",), live=("b", "d"), removed=("c",), based_on=2)
    after = manifest(4, "s3", request_ids=("e",), based_on=3)
    assert list(members([first, second])) == ["b", "c"]
    assert list(members([root, after])) == ["b", "d", "e"]
    assert list(members([])) == []


def test_what_takes_a_fact_out_is_no_fact_and_what_is_written_back_is_one():
    leaving = {"request_ids": ("x",), "removals": {"x": "a"}, "replaced": {"b": "n"}, "removed": ("a", "b")}
    root = manifest(2, None, live=("c",), after="s1", based_on=1, **leaving)
    back = manifest(3, "s2", request_ids=(), restored=("b",), based_on=1)
    assert (root.facts, root.follows, back.follows) == ((), "s1", "s2")
    assert members([root, back]) == {"c": 2, "b": 3}


def test_what_says_nothing_of_a_root_is_no_part_of_a_version():
    assert not {"after", "removals", "replaced", "restored"} & json.loads(manifest_bytes(manifest())).keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parent": "s", "live": ("r1",)}, "only a root"),
        ({"live": ("other",)}, "'r1', which is not among its live requests"),
        ({"live": ("r1", "x"), "removed": ("x",)}, "'x' is live and removed"),
        ({"parent": "s", "after": "s"}, "only a root says what it comes after"),
        ({"removals": {"x": "b"}, "removed": ("b",)}, "removal 'x' is none of its requests"),
        ({"request_ids": ("x",), "live": (), "removals": {"x": "b"}}, "fact 'b' leaves, and is not among the removed"),
        ({"live": ("r1",), "replaced": {"b": "c"}}, "fact 'b' leaves, and is not among the removed"),
        ({"format": 1, "based_on": 1}, "format 1 has no based_on"),
    ],
)
def test_a_version_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        manifest(**fields)


def test_a_line_has_one_way_of_joining(folder):
    spec = resolve_line(folder, Settings(), "joined", join="none")
    assert spec.join == "" and "join" not in resolve_line(folder, Settings(), "plain").model_dump_json()
    save_line(folder, spec)
    assert resolve_line(folder, Settings(), "joined").join == ""
    with pytest.raises(UsageError, match="line 'joined' has join '', not ' '"):
        resolve_line(folder, Settings(), "joined", join="space")


def test_a_line_has_one_system_message(folder):
    spec = resolve_line(folder, Settings(), "told", system=" Be brief.\r\nBe kind. ")
    assert spec.system == "Be brief.\nBe kind." and spec.template == "auto"
    plain = resolve_line(folder, Settings(), "plain")
    assert "system" not in plain.model_dump() and "system" not in plain.model_dump_json()
    for one in (spec, plain):
        save_line(folder, one)
        assert read_line(folder, one.line) == one
    assert resolve_line(folder, Settings(), "told") == resolve_line(folder, Settings(), "told", system=spec.system)
    with pytest.raises(UsageError, match=r"'told' has another system message, 'Be brief.*leave --system out or choose"):
        resolve_line(folder, Settings(), "told", system="Be brief.")
    with pytest.raises(UsageError, match="'plain' has no system message; leave --system out or choose another line"):
        resolve_line(folder, Settings(), "plain", system="Be brief.")


@pytest.mark.parametrize(
    ("system", "template", "why"),
    [
        ("Be brief.", "raw", "'raw' asks bare .* 'Be brief.' is never said; leave --system out or choose .*'chat'"),
        (" ", "chat", "is empty"),
        ("a" * 100_001, "auto", "has 100,001 characters, at most 100,000 are allowed; shorten it"),
        ("a\x00", "auto", "holds the control character U\\+0000"),
        ("a\udcff", "auto", "holds half a surrogate pair"),
    ],
)  # fmt: skip
def test_a_system_message_that_could_not_be_said_is_refused(folder, system, template, why):
    with pytest.raises(UsageError, match=why):
        resolve_line(folder, Settings(), "new", template=template, system=system)


@pytest.mark.parametrize("method", ["memit", "finetune"])
def test_a_line_of_before_an_option_is_asked_for_as_it_was_then(folder, method):
    """What a release adds to a config is not asked for by who names the options of then."""
    options = {"norm_clamp": 2.0, "layers": (3,)}
    stored = LineSpec(line="x", model="m", config=method_config(method, options)).model_dump(mode="json")
    for name in ("compensate", "shrink"):
        stored["config"].pop(name, None)
    if "statistics_tokens" in stored["config"]:
        stored["config"] |= {"statistics_tokens": 98304, "statistics_alternatives": 0, "statistics_weight": 2000.0}
    folder.put_if_absent(spec_key("x"), json.dumps(stored).encode())
    found = resolve_line(folder, Settings(), "x", model="m", method=method, options=options)
    assert found.config.norm_clamp == 2.0 and not found.config.compensate
    with pytest.raises(UsageError, match="other options"):
        resolve_line(folder, Settings(), "x", options=options | {"compensate": True})
