"""Who hears of a watch: Prefect's server by events, which automations wait for, and people by notices.

    errata.line.breached   what is in service is not as it should be; at most once an hour for one HEAD
    errata.line.late       something is late; once a finding and day

An event that no server took is sent by the next watch.

People are told once a finding and day. It is noted after they were told: a watch that is killed in between tells them
twice rather than never.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tasks.notices import Kind, tell
from tasks.prefect_events import send_event
from tasks.settings import Settings
from tasks.stores.manifest import Head
from tasks.watch.findings import Finding
from tasks.watch.memory import Memory, Told, WatchRecord

AGAIN = timedelta(hours=1)
"""A breach that is still there after so long is sent anew: nobody acted on it."""
MOST_TRIES = 3
"""How often in a day it is tried to tell what did not reach everybody."""
LENGTH = 300
KEPT = timedelta(days=7)


class Alarm:
    """Tells of the findings about a line.

    Args:
        events: Whether there is a Prefect server to send events to.
        link: Where people may look.
    """

    def __init__(self, settings: Settings, memory: Memory, events: bool, link: str = "") -> None:
        self._settings, self._memory, self._events, self._link = settings, memory, events, link

    def raise_for(self, findings: Sequence[Finding], head: Head | None) -> None:
        """Send events and tell people, each as often as it is due. `head`: what is in service, read just now."""
        breaches = [finding for finding in findings if finding.weight == "breach"]
        if breaches and head is not None:
            self._breached(breaches, head)
        for finding in findings:
            if finding.weight == "late":
                self._late(finding)

    def _breached(self, breaches: Sequence[Finding], head: Head) -> None:
        name, record = f"breached {head.sequence}", self._memory.read()
        now = datetime.now(UTC)
        if self._events and now - record.emitted.get(name, now - 2 * AGAIN) > AGAIN:
            where = {"version": head.version, "sequence": head.sequence, "snapshot": head.snapshot}
            payload = where | {"findings": [one.text[:LENGTH] for one in breaches]}
            if send_event("breached", head.line, payload, f"{head.token} {now:%Y-%m-%d %H}"):
                self._memory.change(lambda then: _noted(then, emitted={name: now}))
        for finding in breaches:
            text = f"version {head.version}: {finding.text}"
            self._tell("breached", f"{finding.name} {head.sequence}", text, record)

    def _late(self, finding: Finding) -> None:
        record = self._memory.read()
        name, today = f"late {finding.name}", datetime.now(UTC)
        sent = record.emitted.get(name)
        if self._events and (sent is None or sent.date() < today.date()):
            payload = {"kind": finding.kind, "about": finding.about, "text": finding.text[:LENGTH]}
            if send_event("late", self._memory.line, payload, f"{finding.name} {today:%Y-%m-%d}"):
                self._memory.change(lambda then: _noted(then, emitted={name: today}))
        self._tell("late", finding.name, finding.text, record)

    def _tell(self, kind: Kind, name: str, text: str, record: WatchRecord) -> None:
        if not self._settings.notify.get_secret_value().split():
            return
        before, today = record.told.get(name), datetime.now(UTC).date()
        tries = before.tries if before is not None and before.day == today else 0
        if before is not None and tries and (before.reached or tries >= MOST_TRIES):
            return
        reached = tell(self._settings, kind, self._memory.line, text, self._link)
        told = Told(day=today, tries=tries + 1, reached=reached)
        self._memory.change(lambda then: _noted(then, told={name: told}))


def _noted(
    record: WatchRecord, told: Mapping[str, Told] | None = None, emitted: Mapping[str, datetime] | None = None
) -> WatchRecord:
    """The record with what was just done, and without what is long past."""
    since = datetime.now(UTC) - KEPT
    all_told = {**record.told, **(told or {})}
    all_emitted = {**record.emitted, **(emitted or {})}
    return record.model_copy(
        update={
            "told": {name: one for name, one in all_told.items() if one.day >= since.date()},
            "emitted": {name: time for name, time in all_emitted.items() if time >= since},
        }
    )
