"""The facts of versions as ledger and manifests know them, where no report says what was answered."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tasks.report.description import Fact
from tasks.stores.manifest import Version
from tasks.workplace import Workplace


def stored_facts(workplace: Workplace, versions: Sequence[Version], known: Collection[str] = ()) -> dict[str, Fact]:
    """The facts by their requests, but for those that are known; before is what the request says that it was."""
    requests = [(name, one.manifest) for one in versions for name in one.manifest.request_ids if name not in known]
    if not requests:
        return {}
    payloads = workplace.ledger.payloads(requests[0][1].line, [name for name, _ in requests])
    return {
        name: _fact(name, payloads.get(name, {}), manifest.request_metrics.get(name, {})) for name, manifest in requests
    }


def _fact(name: str, payload: Mapping[str, Any], metrics: Mapping[str, float]) -> Fact:
    question = str(payload.get("prompt", name)).replace("{}", str(payload.get("subject", "")), 1)
    before = str(payload.get("target_true") or "")
    return Fact(question, str(payload.get("target_new", "")), before, metrics=metrics)
