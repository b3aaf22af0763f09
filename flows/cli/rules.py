"""Commands about the rules of a line: who decides, how long it waits, and whether anything may be put in service."""

from typing import TYPE_CHECKING, Annotated

import typer

from editing.errors import PolicyError
from flows.cli.app import Json, Line, app, pairs
from flows.cli.console import as_json, say, table

if TYPE_CHECKING:
    from tasks.lines.rules import LineRules
    from tasks.workplace import Workplace

RULES = "Rules of a line"
"""The heading of these commands in the help."""


@app.command(rich_help_panel=RULES)
def rules(
    line: Line = "main",
    values: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A rule, NAME=VALUE; repeatable. null takes it away.")
    ] = None,
    json: Json = False,
) -> None:
    """How the versions of a line are decided: who, by when, and what without a person.

    Examples:

        errata rules

        errata rules main --set expires_after_hours=48

        errata rules main --set auto_approve.max_facts=5 --set auto_approve.min_efficacy=1.0
    """
    from tasks.lines.rules import read_rules, set_rules

    wanted = pairs(values, "--set", "expires_after_hours=48")
    workplace = _workplace_of(line)
    if wanted.get("reviewers") == 2:
        _check_identities(workplace)
    store = workplace.store.store
    _show(line, set_rules(store, line, wanted) if wanted else read_rules(store, line), json)


@app.command(rich_help_panel=RULES)
def freeze(
    line: Line = "main",
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; whoever is refused is told it.")] = "",
    json: Json = False,
) -> None:
    """Nothing is put in service and no job starts, until it is unfrozen. Rolling back is possible, forward not.

    Example:

        errata freeze main --reason "an audit until Friday"
    """
    from tasks.lines import rules

    _show(line, rules.freeze(_workplace_of(line).store.store, line, reason), json)


@app.command(rich_help_panel=RULES)
def unfreeze(line: Line = "main", json: Json = False) -> None:
    """End of the freeze. What waits has its whole time for an answer anew.

    Example:

        errata unfreeze main
    """
    from tasks.lines import rules

    _show(line, rules.unfreeze(_workplace_of(line).store.store, line), json)


def _workplace_of(line: str) -> "Workplace":
    """Rules of a line that nobody knows would be those of a mistyped one."""
    from tasks.lines.stored import check_known
    from tasks.workplace import open_workplace

    workplace = open_workplace()
    check_known(workplace.store, workplace.ledger, line)
    return workplace


def _check_identities(workplace: "Workplace") -> None:
    from tasks.tracking.review_queue import authenticates

    if not authenticates(workplace.settings.mlflow_uri):
        raise PolicyError(
            "rule reviewers = 2 needs an MLflow server that asks for a password: "
            f"{'this one' if workplace.settings.mlflow_uri.startswith('http') else 'a database'} does not, "
            "and two names that nobody checks can be one person"
        )


def _show(line: str, found: "LineRules", json: bool) -> None:
    values = found.model_dump(mode="json", exclude={"format"})
    if json:
        as_json({"line": line, **values})
        return
    limits = values.pop("auto_approve")
    rows = [
        ["expires_after_hours", values["expires_after_hours"] or "never", "what waits is refused after so long"],
        ["reviewers", values["reviewers"], "different people who have to approve"],
        ["queues_for", ", ".join(found.queues_for) or "nobody", "who has a review queue in MLflow"],
        ["auto_approve", "within these limits" if limits else "nothing", "what is approved without a person"],
        *([f"auto_approve.{name}", limit, ""] for name, limit in (limits or {}).items()),
        ["frozen", found.frozen or "no", "nothing is put in service, and no job starts"],
    ]
    table(f"rules of line {line}", ["rule", "value", "meaning"], rows)
    if found.frozen:
        say(f"errata unfreeze {line}")
