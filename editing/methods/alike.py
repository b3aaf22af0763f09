"""Facts whose keys are so alike that writing one of them changes what the other gives."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from editing.edit import Edit
from editing.groups import KeyNames
from editing.keys import SubjectReader
from editing.methods.located import gather
from editing.methods.shared.interface import MethodInput
from editing.tokens import EncodedPrompt, pad_token

NEAR_COSINE = 0.5
"""Keys so alike that writing one value changes what the other gives. Measured on SmolLM2-135M, layer 5: two people of
one surname have 0.65 to 0.91, others at most 0.27."""
NEAR_AT_MOST = 200


class Alike(NamedTuple):
    """A fact, another whose key is nearly its own, and the cosine of the two."""

    edit: Edit
    other: Edit
    cosine: float


def nearly_alike(given: MethodInput, keys: KeyNames, edits: Sequence[Edit], others: Sequence[Edit]) -> list[Alike]:
    """Each edit with those of the edits and of `others` whose key is nearly its own (NEAR_COSINE), not the same.

    Only subjects that end in the same token can be so near; the last NEAR_AT_MOST of `others` that do are looked at.

    Raises:
        InvalidEdit: a subject is lost in tokenisation.
    """
    written = {keys.of(edit) for edit in edits}
    ends = {name[-1] for name in written}
    like = [edit for edit in others if (name := keys.of(edit))[-1] in ends and name not in written][-NEAR_AT_MOST:]
    known = [*edits, *like]
    alone = Counter(name[-1] for name in {keys.of(edit) for edit in known})
    names = list(dict.fromkeys(name for edit in known if alone[(name := keys.of(edit))[-1]] > 1))
    if not names:
        return []
    prompts = [EncodedPrompt(name, len(name) - 1) for name in names]
    reader, layer = SubjectReader(given.model, given.layout, pad_token(given.tokenizer)), given.layers[-1]
    [keys_nd] = gather(given, prompts, [{}] * len(prompts), lambda some, _: [reader.keys(some, layer, uniform=True)])
    unit_nd = torch.nn.functional.normalize(keys_nd, dim=1)
    row = {name: number for number, name in enumerate(names)}
    found = []
    for edit in edits:
        if (number := row.get(keys.of(edit))) is None:
            continue
        cosines = (unit_nd @ unit_nd[number]).tolist()
        for other in known:
            place = row.get(keys.of(other))
            if place not in (None, number) and cosines[place] >= NEAR_COSINE:
                found.append(Alike(edit, other, cosines[place]))
    return found
