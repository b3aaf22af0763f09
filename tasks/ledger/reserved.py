"""What may be queued now, whatever it says of its fact; without the table, which takes a while to import."""

from datetime import UTC, datetime

from editing.edit import Edit
from editing.request import Request

RETRACT, REFUSE = "retract:", "refuse:"
"""How the ids of removals begin: asked for by anybody, or by a reviewer, whose fact ends refused where it waited."""
RESERVED = (RETRACT, REFUSE)


def fault_now(edit: Edit) -> str | None:
    """Why a request cannot be queued now; None where it can."""
    if edit.id.startswith(RESERVED):
        return f"request '{edit.id}' has an id that begins as those of removals do; give it another id"
    if isinstance(edit, Request) and edit.expires is not None and edit.expires <= datetime.now(UTC):
        return (
            f"request '{edit.id}' expires {edit.expires:%Y-%m-%d %H:%M} UTC: that is over; give a later time, or none"
        )
    return None
