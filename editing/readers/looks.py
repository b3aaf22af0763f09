"""What can be seen of an edit without a model, and hardly ever takes."""

import re
import unicodedata

from editing.edit import SLOT, Edit
from editing.places import is_named_in
from editing.texts import is_unspaced, shown


def worth_a_look(edit: Edit, given: str) -> list[str]:
    """One line for each; `given` is the prompt as it was given."""
    found = []
    if SLOT not in given and (word := _word_around(edit.prompt, edit.subject)):
        found.append(
            f"its subject {shown(edit.subject)} stands inside the word {shown(word)}; mark its place by '{{}}'"
        )
    if is_named_in(edit.target_new, edit.subject):
        found.append(
            f"its answer {shown(edit.target_new)} holds its subject, which is changed while it is said; shorten the "
            "answer to what is new"
        )
    if _ends_in_a_word(edit):
        found.append(f"its prompt ends in the middle of a word: {shown(edit.taught)}; let it end with a whole one")
    return found


def _word_around(prompt: str, subject: str) -> str | None:
    """The word in whose middle or at whose end a template's subject stands; None where it begins a word.

    Scripts without spaces have no such words, and Arabic and Hebrew write short words together with what follows.
    """
    before, after = prompt.split(SLOT, 1)
    last = before[-1:]
    if not last.isalpha() or not subject[0].isalpha() or is_unspaced(last) or is_unspaced(subject[0]):
        return None
    if unicodedata.bidirectional(last) in ("R", "AL"):
        return None
    begun, rest = re.split(r"\W", before)[-1], re.split(r"\W", after)[0]
    return f"{begun}{subject}{rest}"


def _begins_a_word(text: str) -> bool:
    return text[0].isalnum() and not is_unspaced(text[0])


def _ends_in_a_word(edit: Edit) -> bool:
    before, last = edit.text[-2:-1], edit.text[-1]
    if last in "-'’" and before.isalpha():
        return edit.target_new[0].isalpha()
    return edit.join == "" and last.isalnum() and not is_unspaced(last) and _begins_a_word(edit.target_new)
