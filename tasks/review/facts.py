"""The facts of versions as ledger and manifests know them, where no report says what was answered."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from editing.request import CARRIED
from tasks.report.data import told_of
from tasks.report.description import Fact
from tasks.stores.manifest import Manifest, Version
from tasks.workplace import Workplace


def stored_facts(workplace: Workplace, versions: Sequence[Version], known: Collection[str] = ()) -> dict[str, Fact]:
    """The facts by their requests, but for those that are known; before is what the request says that it was."""
    requests = [(name, one.manifest) for one in versions for name in one.manifest.request_ids if name not in known]
    if not requests:
        return {}
    removals = {removal: fact for _, manifest in requests for removal, fact in manifest.removals.items()}
    asked = [name for name, _ in requests]
    payloads = workplace.ledger.payloads(requests[0][1].line, [*asked, *removals.values()])
    return {
        name: _leaving(name, payloads.get(removals[name], {}), payloads.get(name, {}))
        if name in removals
        else _fact(name, payloads.get(name, {}), manifest)
        for name, manifest in requests
    }


def statement(name: str, payload: Mapping[str, Any]) -> str:
    """What a request asks; its name where that is not known."""
    return str(payload.get("prompt", name)).replace("{}", str(payload.get("subject", "")), 1)


def carried(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """What a request carries besides its fact, one line each."""
    return told_of({name: payload[name] for name in CARRIED if payload.get(name)})


def _fact(name: str, payload: Mapping[str, Any], manifest: Manifest) -> Fact:
    before, metrics = str(payload.get("target_true") or ""), manifest.request_metrics.get(name, {})
    wanted = str(payload.get("target_new", ""))
    return Fact(statement(name, payload), wanted, before, metrics=metrics, request=name, told=carried(payload))


def _leaving(removal: str, fact: Mapping[str, Any], payload: Mapping[str, Any]) -> Fact:
    told = (str(payload["reason"]),) if payload.get("reason") else ()
    return Fact(
        statement(removal, fact), "", str(fact.get("target_new") or ""), request=removal, told=told, leaves=True
    )
