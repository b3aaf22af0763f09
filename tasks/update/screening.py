"""What a model cannot take, found before any work is done."""

from collections.abc import Sequence

from editing.edit import Edit
from editing.errors import InvalidEdit
from editing.tokens import check_edit
from tasks.ledger.intake import Intake
from tasks.update.session import Session


def screen(session: Session, edits: Sequence[Edit]) -> Intake:
    """Refuse what this model cannot take: a subject lost in tokens, a prompt longer than it reads."""
    accepted, rejected = [], {}
    for edit in edits:
        try:
            check_edit(session.loaded.model, session.loaded.tokenizer, edit)
            accepted.append(edit)
        except InvalidEdit as error:
            rejected[edit.id] = str(error)
    return Intake(tuple(accepted), rejected)
