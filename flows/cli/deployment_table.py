"""The table of deployments and automations, `deployments/prefect.yaml`, read and checked.

It is data that lies beside this package: nothing is imported from there.
"""

from functools import cached_property
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from editing.errors import UsageError

TABLE = "prefect.yaml"
ALL = "all"
"""In the place of a line: what is deployed once for all of them."""


class Entry(BaseModel):
    """One flow that is deployed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow: str
    entrypoint: str = Field(pattern=r"^[a-z_]+(\.[a-z_]+)+$", description="Module and name of the flow, with dots.")
    of: Literal["line", "all"] = "line"
    cron: str = Field("", description="When it runs, in UTC; empty: when it is asked to.")
    one_at_a_time: bool = False

    def name(self, line: str) -> str:
        return ALL if self.of == "all" else line


class AutomationEntry(BaseModel):
    """One automation, or one for each line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    of: Literal["server", "line"] = "server"
    trigger: dict[str, Any]
    actions: list[dict[str, Any]]


class Table(BaseModel):
    """What `errata deploy` makes."""

    model_config = ConfigDict(extra="forbid")

    work_pool: str
    tags: list[str]
    heartbeat_seconds: int = Field(ge=30)
    deployments: list[Entry]
    automations: list[AutomationEntry]

    @cached_property
    def flows(self) -> dict[str, Entry]:
        return {entry.flow: entry for entry in self.deployments}


def read_table() -> Table:
    """Raises UsageError where the installation lacks it or it cannot be read."""
    file = resources.files("deployments").joinpath(TABLE)
    try:
        return Table.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): install Errata again") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise UsageError(f"{file} is no table of deployments: {' '.join(str(error).split())}") from error
