"""The names of a record's fields: which are read, which are another form's, and which look misspelled."""

import difflib
from typing import Final

from editing.edit import SHOWN, InvalidField, called_edit, shown
from editing.readers.values import Fields
from editing.request import CARRIED, Request

OWN: Final = frozenset(Request.model_fields)
COUNTERFACT: Final = frozenset({"case_id", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"})
ZSRE: Final = frozenset({"subject", "src", "alt", "answers", "rephrase", "loc", "loc_ans"})
EASYEDIT_MARKS: Final = frozenset(
    {"ground_truth", "rephrase_prompt", "rephrase", "locality", "locality_prompt", "locality_ground_truth"}
)
EASYEDIT: Final = EASYEDIT_MARKS | {
    "id", "case_id", "subject", "prompt", "prompt_template", "target_new", "target_new_alias", "question", "portability"
}  # fmt: skip
MQUAKE: Final = frozenset({"requested_rewrite", "questions", "new_answer", "new_answer_alias", "new_single_hops"})
UNREAD: Final = frozenset(
    {
        "answer", "answer_alias", "answer_extended", "attribute_prompts", "case_id", "cond", "generation_prompts",
        "orig", "pararel_idx", "pred", "relation_id", "single_hops", "split",
    }
)  # fmt: skip
"""What published sets hold besides, and no reader reads."""

ALIKE: Final = 0.75
"""How alike two names are, by difflib, for one to be taken for a misspelling of the other."""
SHORTEST: Final = 4
"""Letters of a name that can be misspelled: of two or three, every other name would be one."""


def check_names(given: Fields, read: frozenset[str], unused: set[str] | None = None) -> None:
    """Refuse a name that looks like one of the form's own; others, which nobody reads, are added to `unused`.

    Raises:
        InvalidField: the name, and the nearest one.
    """
    for name in given:
        if not isinstance(name, str) or name in read or name in CARRIED:
            continue
        near = None if name in UNREAD else _nearest(name, read)
        if near is not None:
            plain = name if name.isprintable() and len(name) <= SHOWN else shown(name)
            raise InvalidField(f"{called_edit(given)}: unknown field {shown(name)}; did you mean '{near}'?", plain)
        if unused is not None:
            unused.add(name)


def _nearest(name: str, read: frozenset[str]) -> str | None:
    """What the name may have been meant to be: of this form, of any request, or, in Errata's own, of any form."""
    known = [read | {*CARRIED}, COUNTERFACT | ZSRE | EASYEDIT | MQUAKE if read is OWN else frozenset[str]()]
    plain = "".join(letter if letter.isalnum() else "_" for letter in name.casefold()).strip("_")
    for names in known:
        if plain in names:
            return plain if plain != name else None
        long = sorted(known_name for known_name in names if len(known_name) >= SHORTEST)
        if near := difflib.get_close_matches(plain[:100], long, n=1, cutoff=ALIKE):
            return near[0]
    return None
