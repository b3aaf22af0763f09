"""Notices to people: one line of text with a link, to whatever Apprise reaches (mail, chat, a webhook of one's own).

What happened stands in ledger and store; a notice that cannot be sent is logged and changes nothing.
"""

import logging
from typing import Literal

from tasks.secrets import without_secrets
from tasks.settings import Settings

Kind = Literal[
    "waiting", "approved", "rejected", "rolled back", "expired", "full", "failed", "breached", "late", "served other"
]
LENGTH = 300
"""Most characters of a notice's text."""
BAD: frozenset[Kind] = frozenset({"rejected", "expired", "full", "failed", "breached", "late", "served other"})

logger = logging.getLogger(__name__)


def tell(settings: Settings, kind: Kind, line: str, text: str, link: str = "") -> bool:
    """Tell those whom the setting `notify` names; whether there are any and all were reached.

    Args:
        text: What happened, as plain text: it is never read as markup. Line breaks become spaces.
        link: Where to look.
    """
    addresses = settings.notify.get_secret_value().split()
    if not addresses:
        return False
    import apprise  # a quarter of a second, and only whoever tells somebody needs it

    said = without_secrets(" ".join(text.split()))
    body = said if len(said) <= LENGTH else said[: LENGTH - 2] + " …"
    reached = True
    for number, address in enumerate(addresses, start=1):
        to = apprise.Apprise()
        sent = to.add(address) and to.notify(
            body=f"{body} {link}".strip(),
            title=f"Errata, line {line}: {kind}",
            notify_type=apprise.NotifyType.WARNING if kind in BAD else apprise.NotifyType.INFO,
            body_format=apprise.NotifyFormat.TEXT,
        )
        if not sent:  # the address may hold a password, so its place in the setting names it
            logger.warning("line %s, %s: address %d of ERRATA_NOTIFY could not be told", line, kind, number)
        reached = reached and bool(sent)
    return reached
