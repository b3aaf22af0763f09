"""What a job asks of its base before anything is written."""

from collections.abc import Sequence
from contextlib import suppress

from editing.edit import Edit
from tasks.update.ability_files import read_sets
from tasks.update.policy import Policy
from tasks.update.run import Reference, batches_of
from tasks.update.screening import REQUEST_FAULTS
from tasks.update.session import Session
from tasks.update.texts import fluency_prompts


def measure_reference(session: Session, policy: Policy, texts: Sequence[str] | None = None) -> Reference:
    """The base's perplexity on fixed text: the given one, or text that the base sampled itself.

    Raises:
        ReadError, PolicyError: a file of the policy's questions is missing, no such file, or another one.
    """
    used = list(texts or session.held_out)
    return Reference(session.base_perplexity(used, policy.perplexity_tokens), used, read_sets(policy.ability))


def ask_base(session: Session, edits: Sequence[Edit], policy: Policy) -> None:
    """Ask the base now what the validations of these edits, batch by batch, will compare with: together it costs less.

    The model can be asked all that is asked about `edits`.
    """
    with suppress(*REQUEST_FAULTS):  # the verdict on its batch will tell
        session.base_scores(edits, policy.neighborhood_probes)
    prompts = [
        prompt for batch in batches_of(session, edits, policy) for prompt in fluency_prompts(session, batch, policy)
    ]
    if prompts:
        session.base_fluency(list(dict.fromkeys(prompts)), policy.fluency_tokens)
