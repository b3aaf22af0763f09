"""The forms in which sets of edits are published: one table, an entry a form.

An entry says by which fields a form is told, how it calls what a request has, and which of its fields have no place.
What it leaves out is called as in Errata's own form and in EasyEdit's (`COMMON`), which every form may use. Where a
record is not flat, `facts` makes flat ones of it. The first entry whose mark fits is taken; the last fits always.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from editing.readers.nested import Fact, counterfact, languages, mquake, rewrites, ripple_edits
from editing.readers.values import Fields, is_none
from editing.request import Request

Name = str | tuple[str, str]
"""A field; of probes also a field of prompts and the field of their answers."""
Names = Mapping[str, tuple[Name, ...]]
"""By a field of a request, how a form calls it."""


def _itself(fields: Fields) -> list[Fact]:
    return [Fact("", fields)]


@dataclass(frozen=True, eq=False)
class Form:
    """A form of records."""

    name: str
    source: str
    """Where it comes from, as Markdown."""
    told_by: str
    """Its mark in words."""
    mark: Callable[[Fields], bool]
    names: Names = field(default_factory=dict)
    """What it calls otherwise than `COMMON`."""
    unused: tuple[str, ...] = ()
    """Fields of published sets that have no place."""
    inside: tuple[str, ...] = ()
    """Fields in which others stand, that `facts` reads."""
    facts: Callable[[Fields], list[Fact]] = _itself
    closed: bool = False
    """What is said of its facts stands in them alone, or in `inside`."""
    apart: bool = False
    """Each of its facts is a record by itself, of a form of its own."""

    @property
    def own(self) -> bool:
        """Whether it is Errata's, whose fields somebody wrote to be read by it."""
        return self is FORMS[-1]

    @cached_property
    def read(self) -> frozenset[str]:
        """The names of all that is read of a fact."""
        return _names_in(self.names).union(_names_in(COMMON), CASE)

    @cached_property
    def tiers(self) -> tuple[frozenset[str], ...]:
        """The names of all that is read of a record, for `check_names`."""
        if self.own:
            return frozenset(Request.model_fields), self.read, DISTINCT
        return (frozenset(("join", *self.inside)) if self.closed else self.read.union(self.inside)), frozenset()

    @cached_property
    def within(self) -> tuple[frozenset[str], ...]:
        """The same of its facts, where these stand inside of it."""
        return (self.read.union(*(form.read for form in FORMS)) if self.apart else self.read), frozenset()

    @cached_property
    def left(self) -> frozenset[str]:
        """What it is known to hold besides."""
        return UNUSED.union(self.unused)

    @cached_property
    def calls(self) -> Names:
        """All names, its own first; a name that is its own means nothing else."""
        own = _names_in(self.names)
        return {
            role: (*self.names.get(role, ()), *(name for name in names if not own & _parts(name)))
            for role, names in COMMON.items()
        }


COMMON: Final[Names] = {
    "id": ("id",),
    "subject": ("subject",),
    "prompt": ("prompt",),
    "target_new": ("target_new",),
    "target_true": ("target_true", "ground_truth", "target_old"),
    "paraphrases": ("paraphrases", "paraphrase_prompts", "rephrase_prompt", "rephrase"),
    "question": ("question",),
    "aliases": ("aliases", "target_new_alias"),
    "neighborhood": (
        "neighborhood",
        "locality",
        ("locality_prompt", "locality_ground_truth"),
        ("loc", "loc_ans"),
        "neighborhood_prompts",
    ),
    "portability": ("portability", ("portability_prompt", "portability_ground_truth"), ("mhop", "mhop_ans")),
    "join": ("join",),
}
CASE: Final = ("case_id", "prompt_template")
"""What every form may have besides."""
UNUSED: Final = frozenset(
    {
        "answer", "answer_alias", "answer_extended", "answers", "attribute_prompts", "cond", "generation_prompts",
        "has_full", "loc_prompt", "metric_kwargs", "orig", "pararel_idx", "post", "pre", "pred", "relation_id",
        "relation_id_origin", "single_hops", "split", "time",
    }
)  # fmt: skip
"""What published sets hold besides, in whatever form they are."""


def _without_new(*names: str) -> Callable[[Fields], bool]:
    """All of these fields, and no target_new."""
    return lambda fields: all(not is_none(fields.get(name)) for name in names) and is_none(fields.get("target_new"))


FORMS: Final[tuple[Form, ...]] = (
    Form(
        "RippleEdits",
        "Cohen et al., [2307.12976](https://arxiv.org/abs/2307.12976)",
        "`edit` with `subject_id`",
        lambda fields: isinstance(edit := fields.get("edit"), Mapping) and "subject_id" in edit,
        facts=ripple_edits,
    ),
    Form(
        "MQuAKE",
        "Zhong et al., [2305.14795](https://arxiv.org/abs/2305.14795)",
        "`requested_rewrite`, a list",
        lambda fields: isinstance(fields.get("requested_rewrite"), list),
        unused=("answer", "answer_alias", "single_hops", "case_id"),
        inside=("requested_rewrite", "questions", "new_answer", "new_answer_alias", "new_single_hops"),
        facts=mquake,
        closed=True,
    ),
    Form(
        "EasyEdit's result logs",
        "[EasyEdit](https://github.com/zjunlp/EasyEdit)",
        "`requested_rewrite` with `pre` or `post`",
        lambda fields: fields.get("requested_rewrite") is not None and not {"pre", "post"}.isdisjoint(fields),
        unused=("time", "pre", "post", "metric_kwargs", "loc_prompt"),
        inside=("requested_rewrite", "case_id"),
        facts=rewrites,
        closed=True,
    ),
    Form(
        "CounterFact",
        "Meng et al., ROME, [2202.05262](https://arxiv.org/abs/2202.05262)",
        "`requested_rewrite`",
        lambda fields: fields.get("requested_rewrite") is not None,
        unused=("attribute_prompts", "generation_prompts", "pararel_idx", "relation_id"),
        inside=("requested_rewrite", "new_answer", "new_answer_alias", "new_single_hops"),
        facts=counterfact,
    ),
    Form(
        "multilingual zsRE",
        "Wang et al., [2309.08952](https://arxiv.org/abs/2309.08952)",
        "an object with `src` and `alt` for each language",
        lambda fields: languages(fields) != [],
        facts=languages,
        closed=True,
        apart=True,
    ),
    Form(
        "zsRE (MEND)",
        "Mitchell et al., MEND, [2110.11309](https://arxiv.org/abs/2110.11309)",
        "`src` and `alt`",
        lambda fields: fields.get("src") is not None and fields.get("alt") is not None,
        {"prompt": ("src",), "target_new": ("alt",), "target_true": ("answers",)},
        unused=("pred", "cond"),
    ),
    Form(
        "WikiBigEdit",
        "Thede et al., [2503.05683](https://arxiv.org/abs/2503.05683)",
        "`update` and `ans`",
        _without_new("update", "ans"),
        {"prompt": ("update",), "target_new": ("ans",), "paraphrases": ("rephrase", "personas")},
        unused=("tag", "date", "relation", "object"),
    ),
    Form(
        "UltraEditBench",
        "Gu et al., [2505.14679](https://arxiv.org/abs/2505.14679)",
        "`ans`",
        _without_new("ans"),
        {"prompt": ("src",), "target_new": ("ans",)},
    ),
    Form(
        "FastEdit, QAEdit",
        "[FastEdit](https://github.com/hiyouga/FastEdit), Yang et al., [2502.11177](https://arxiv.org/abs/2502.11177)",
        "`target`",
        _without_new("target"),
        {"target_new": ("target",), "paraphrases": ("queries",)},
    ),
    Form(
        "HalluEditBench",
        "Huang et al., [2410.16251](https://arxiv.org/abs/2410.16251)",
        "`object` and `question`",
        lambda fields: _without_new("object", "question")(fields) and is_none(fields.get("prompt")),
        {
            "prompt": ("question",),
            "target_new": ("object",),
            "paraphrases": ("paraphrased_question",),
            "neighborhood": (("locality_question", "locality_answer"),),
            "portability": tuple((f"question_{hops}hop", f"answer_{hops}hop") for hops in range(2, 7)),
        },
        unused=(
            "topic",
            "relation",
            "label",
            "yes_question",
            "no_question",
            "reversed_relation_question",
            "yes_questions",
            "no_questions",
            "multiple_choice_with_letters",
            "multiple_choice_labels",
            "generated_questions",
        ),
    ),
    Form(
        "CKnowEdit",
        "Fang et al., [2409.05806](https://arxiv.org/abs/2409.05806)",
        "`answer` and `target_old`",
        _without_new("answer", "target_old"),
        {"target_new": ("answer",)},
    ),
    Form(
        "EasyEdit, KnowEdit",
        "[2308.07269](https://arxiv.org/abs/2308.07269), [2401.01286](https://arxiv.org/abs/2401.01286)",
        "`ground_truth`, `rephrase_prompt`, `locality`, `target_old` or one of their kin",
        lambda fields: not _PUBLISHED.isdisjoint(fields) or isinstance(fields.get("portability"), Mapping),
        unused=("cond", "relation_id", "relation_id_origin"),
    ),
    Form("Errata's own", "the fields above", "none of these", lambda fields: True),
)


def _parts(name: Name) -> set[str]:
    return {name} if isinstance(name, str) else {*name}


def _names_in(names: Names) -> frozenset[str]:
    return frozenset(part for some in names.values() for name in some for part in _parts(name))


DISTINCT: Final = frozenset(name for form in FORMS[:4] for name in form.inside)
"""Names that nobody uses for anything else."""
_PUBLISHED: frozenset[str] = _names_in(COMMON) - frozenset(Request.model_fields)


def form_of(fields: Fields) -> Form:
    """The form of a record."""
    return next(form for form in FORMS if form.mark(fields))


@lru_cache(1024)
def given(form: Form, fields: tuple[str, ...]) -> Names:
    """By a field of a request, the names under which a record with these fields may tell it."""
    have = frozenset(fields)
    return {role: tuple(name for name in names if have & _parts(name)) for role, names in form.calls.items()}
