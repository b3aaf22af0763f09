"""What people bring, and what reading it must yield: the cases beside the checkout, where they are."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tasks.ledger.reading import Read, judged, read_requests, verdicts

ROOT = Path(__file__).parents[2]
CASES = Path(os.environ.get("ERRATA_DATA", ROOT / "../shared/data")).parent / "cases"
EXPECTED = CASES / "expected.json"
SHORTENED = {"requests/same_id.json"}
"""Where the list has a subject's first word for the subject that the file has."""
LISTED: list[dict[str, Any]] = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else []


def read(*files: Path) -> dict[str, Any]:
    """What `errata submit FILE --dry-run --json` prints."""
    told = Read()
    return json.loads(json.dumps(verdicts(judged(read_requests(files, read=told)), told)))


def holds(found: Any, listed: Any) -> bool:
    """Whether what was read has what is listed; a field that is not listed is free."""
    if isinstance(listed, dict):
        return all(holds(found.get(name), value) for name, value in listed.items())
    if isinstance(listed, list):
        return len(found) == len(listed) and all(map(holds, found, listed))
    return found == unicodedata.normalize("NFC", listed) if isinstance(listed, str) else found == listed


@pytest.mark.skipif(not LISTED, reason=f"{EXPECTED} is absent; it stands beside the folder that ERRATA_DATA names")
@pytest.mark.parametrize("case", LISTED, ids=lambda case: case["file"])
def test_a_case_is_read_as_listed(case):
    found = read(CASES / case["file"])
    good = [record["edit"] | {"taught": record["taught"]} for record in found["records"] if record["verdict"] == "good"]
    reasons = [record["reason"] for record in found["records"] if record["verdict"] == "bad"]
    assert (found["good"], found["bad"]) == (case["good"], case["bad"]), reasons
    for edit, listed in zip(good, case.get("edits", []), strict=False):
        if case["file"] in SHORTENED:
            edit["subject"] = edit["subject"].split()[0]
        assert holds(edit, listed)
    assert case.get("reason_holds", "") in " ".join(reasons)
    if case.get("ids_differ"):
        assert len({edit["id"] for edit in good}) == len(good)
