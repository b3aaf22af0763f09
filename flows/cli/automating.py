"""Prefect's automations, as the table says: found by their name, created or brought to what is wanted."""

import json
import re
from collections.abc import Sequence
from typing import Any

from prefect.blocks.notifications import SlackWebhook
from prefect.events.schemas.automations import AutomationCore
from pydantic import SecretStr

from flows.cli.deploying import Change, Deployer, Done
from flows.cli.deployment_table import AutomationEntry

BLOCK = "errata-notify"
COMPARED = {"name", "description", "trigger", "actions"}


class Left(Exception):
    """An automation cannot be made, and why."""


def automate_all(deployer: Deployer, lines: Sequence[str], addresses: Sequence[str]) -> None:
    """Every automation of the table; `addresses` are those of ERRATA_NOTIFY."""
    blocks = _blocks(deployer, addresses)
    for entry in deployer.table.automations:
        for line in lines if entry.of == "line" else ("",):
            name = entry.name.replace("LINE", line)
            try:
                wanted = _wanted(deployer, entry, line, blocks)
            except Left as reason:
                deployer.done.append(Done("automation", name, "left out", str(reason)))
            else:
                deployer.done.append(Done("automation", name, _apply(deployer, name, wanted)))


def _apply(deployer: Deployer, name: str, wanted: AutomationCore | None) -> Change:
    there = deployer.client.read_automations_by_name(name)
    if not there:
        if wanted is not None and not deployer.dry:
            deployer.client.create_automation(wanted)
        return "created"
    found, *doubled = there
    if not deployer.dry:
        for one in doubled:
            deployer.client.delete_automation(one.id)
    if not doubled and wanted is not None and _compared(found) == _compared(wanted):
        return "unchanged"
    if wanted is not None and not deployer.dry:
        deployer.client.update_automation(found.id, wanted.model_copy(update={"enabled": found.enabled}))
    return "updated"


def _compared(automation: AutomationCore) -> dict[str, Any]:
    compared = automation.model_dump(mode="json", include=COMPARED)
    sets = {
        name: sorted(value) for name, value in compared["trigger"].items() if name in ("after", "expect", "for_each")
    }
    return compared | {"trigger": compared["trigger"] | sets}


def _wanted(deployer: Deployer, entry: AutomationEntry, line: str, blocks: Sequence[str]) -> AutomationCore | None:
    """None where it needs the id of what a dry run has not made."""
    written = json.dumps(entry.model_dump(include=COMPARED)).replace("LINE", line)
    made: dict[str, Any] = json.loads(re.sub(r"\{([a-z-]+)\}", lambda flow: _id(deployer, flow[1], line), written))
    made["trigger"]["type"] = "event"
    actions = []
    for action in made["actions"]:
        if "deployment" in action:
            action["deployment_id"] = _id(deployer, action.pop("deployment"), line)
            actions.append(action | {"source": "selected"})
        elif action.pop("block", ""):
            if not blocks:
                raise Left("ERRATA_NOTIFY names nobody")
            actions += [action | {"block_document_id": block} for block in blocks]
        else:
            actions.append(action)
    if any("" in (action.get("deployment_id", "-"), action.get("block_document_id", "-")) for action in actions):
        return None
    return AutomationCore.model_validate(made | {"actions": actions, "tags": deployer.table.tags})


def _id(deployer: Deployer, flow: str, line: str) -> str:
    """Of the deployment FLOW/LINE; empty where a dry run would create it."""
    name = deployer.table.flows[flow].name(line)
    if not any(done[:2] == ("deployment", f"{flow}/{name}") and done.change != "left out" for done in deployer.done):
        raise Left(f"there is no deployment {flow}/{name}")
    return deployer.ids.get((flow, name), "")


def _blocks(deployer: Deployer, addresses: Sequence[str]) -> list[str]:
    """Ids of the blocks that hold the addresses, as secrets of Prefect's server.

    Prefect has no block for any of Apprise's addresses; that of Slack hands Apprise whatever it holds.
    """
    found = []
    for number, address in enumerate(addresses, start=1):
        name = f"{BLOCK}-{number}"
        try:
            there: Any = SlackWebhook.load(name, client=None)
        except ValueError:  # Prefect's way to say that there is none
            there = None
        if there is not None and there.url.get_secret_value() == address:
            change: Change = "unchanged"
        else:
            change = "created" if there is None else "updated"
            if not deployer.dry:
                there = SlackWebhook(url=SecretStr(address), notify_type="warning")
                there.save(name, overwrite=True)
        deployer.done.append(Done("block", name, change, f"address {number} of ERRATA_NOTIFY"))
        found.append(str(there._block_document_id) if there is not None else "")
    return found
