"""How much of the live facts stands, and how full the line is, in words."""

from collections.abc import Mapping
from typing import Any


def standing_text(standing: Mapping[str, Any]) -> str:
    """Of all live facts how much of the correction is missing; empty where nobody measured."""
    if not standing:
        return ""
    quantiles = standing["quantiles"]
    fell = standing["fell"]
    return (
        f"Of the corrections of {standing['facts']} live facts are missing: {quantiles['0.5']:.0%} in the middle, "
        f"{quantiles['0.9']:.0%} at one in ten, {quantiles['1']:.0%} at the worst. "
        f"{fell or 'None'} stand{'s' if fell == 1 else ''} notably less than once written."
    )


def capacity_text(capacity: Mapping[str, Any]) -> str:
    """How many facts there are, and about how many more there is room for; empty where nobody measured."""
    if not capacity.get("layers"):
        return ""
    said = f"{capacity['facts']} live facts."
    return f"{said} Room for about {capacity['room']} more ({capacity['by']})." if "room" in capacity else said
