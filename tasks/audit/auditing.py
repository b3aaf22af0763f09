"""One audit of an installation, or of one line: the store, the ledger, what they say of each other, and MLflow."""

from collections.abc import Sequence

from editing.errors import ErrataError
from tasks.audit.agreement import audit_agreement, audit_mlflow
from tasks.audit.events import audit_events
from tasks.audit.findings import Audited, Finding, Findings
from tasks.audit.objects import Objects
from tasks.ledger.view import look
from tasks.names import unknown_line
from tasks.progress import stage
from tasks.workplace import Workplace


def audit(workplace: Workplace, line: str | None = None, *, mlflow: bool = True) -> Audited:
    """Look at everything that is stored of a line, or of all; nothing is changed, and jobs may go on meanwhile.

    Raises:
        UsageError: there is no such line.
    """
    done = _Audit(workplace)
    lines = done.lines() if line is None else done.known(line)
    for name in lines:
        done.objects_of(name)
    done.rest(whole=line is None)
    done.ledger()
    for name in lines:
        done.agreement_of(name, mlflow)
    return Audited(lines=tuple(lines), looked_at=done.looked_at, findings=tuple(done.findings))


class _Audit:
    def __init__(self, workplace: Workplace) -> None:
        self.workplace, self.objects = workplace, Objects(workplace.store)
        self.decided: dict[str, int] = {}
        self.findings: list[Finding] = []
        self.looked_at: dict[str, int] = {}

    def lines(self) -> list[str]:
        """Those of the store, and those that the ledger alone knows of."""
        known = {*self.workplace.store.lines()}
        found = Findings("ledger")
        with found.tried():
            known |= self.workplace.ledger.look().keys()
        return sorted(known)  # that the ledger cannot be read is said where it is audited

    def known(self, line: str) -> Sequence[str]:
        if line not in (known := self.lines()):
            raise unknown_line(line, known)
        return [line]

    def objects_of(self, line: str) -> None:
        found = Findings("store", line)
        with stage(f"objects of line {line}") as tell:
            self.objects.audit_line(line, found, tell)
        self._add(found)

    def rest(self, *, whole: bool) -> None:
        found = Findings("store")
        with stage("objects of no line") as tell:
            self.objects.audit_rest(found, tell, whole=whole)
        self._add(found)

    def ledger(self) -> None:
        found = Findings("ledger")
        with stage("events of the ledger") as tell:
            self.decided = audit_events(self.workplace.ledger, found, tell)
        self._add(found)

    def agreement_of(self, line: str, mlflow: bool) -> None:
        """What is said where; of a line that cannot be read nothing more than that, which was said already."""
        found = Findings("agreement", line)
        try:
            view = look(self.objects.store, self.workplace.ledger, line)
        except ErrataError as error:
            if not self.findings:  # whatever it is, it is never passed over
                found.fault(str(error))
            self._add(found)
            return
        audit_agreement(view, self.decided.get(line, 0), found)
        self._add(found)
        if mlflow and view.versions:
            there = Findings("MLflow", line)
            with there.tried():
                audit_mlflow(view, self.workplace.tracker(), there)
            self._add(there)

    def _add(self, found: Findings) -> None:
        self.findings += found.found
        for what, number in found.looked_at.items():
            self.looked_at[what] = self.looked_at.get(what, 0) + number
