"""What a user would do instead of editing: put the correction into the prompt.

The base reads the new fact as a sentence before what it is asked, as Cohen et al. 2023 (RippleEdits,
https://arxiv.org/abs/2307.12976) compare editing with, and is measured by the same measures as an edited model.
"""

from collections.abc import Sequence

from editing.chat import question_of
from editing.edit import SLOT, Edit, Probe
from editing.filled import Said


def after_statement(prompt: str, edit: Edit, beside: Sequence[Edit] = ()) -> str:
    """A prompt after what the edit says, and what facts edited together with it say."""
    said = " ".join(f"{one.taught}." for one in dict.fromkeys((*beside, edit)))
    return f"{said.replace(SLOT, '{ }')} {prompt}"  # the subject's place is the prompt's


def stated(edit: Edit, beside: Sequence[Edit] = ()) -> Edit:
    """The edit with the statement before each of its prompts."""

    def after(prompt: str) -> str:
        return Said(after_statement(prompt, edit, beside), edit.join)

    def probed(probes: Sequence[Probe]) -> tuple[Probe, ...]:
        return tuple(
            probe.model_copy(update={"prompt": after(probe.prompt), "wordings": tuple(map(after, probe.wordings))})
            for probe in probes
        )

    return edit.model_copy(
        update={
            "prompt": after(edit.prompt),
            "question": after(question_of(edit)),
            "paraphrases": tuple(map(after, edit.paraphrases)),
            "neighborhood": probed(edit.neighborhood),
            "portability": probed(edit.portability),
        }
    )
