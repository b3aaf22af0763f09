"""What a model makes of text in general: how well it foretells it, and how varied it writes."""

from collections.abc import Sequence

from editing.edit import Edit
from editing.progress import OnProgress
from tasks.update.policy import Policy
from tasks.update.run import Reference
from tasks.update.screening import readable_prompts
from tasks.update.session import Session


def fluency_prompts(session: Session, batch: Sequence[Edit], policy: Policy) -> list[str]:
    """Beginnings of texts about the edited subjects, as many as the policy asks for.

    The last ones: those of a candidate are then those of its last batch, of which the model wrote already.
    """
    return readable_prompts(session.loaded, [f"{edit.subject} is" for edit in batch])[-policy.fluency_prompts :]


def measure_fluency(
    session: Session, prompts: Sequence[str], policy: Policy, on_progress: OnProgress
) -> dict[str, float]:
    """Entropy of what is generated from the prompts, and as a ratio to the base; without prompts nothing."""
    if not prompts:
        return {}
    base = session.base_fluency(prompts, policy.fluency_tokens)
    now = session.fluency(prompts, policy.fluency_tokens, on_progress)
    return {"fluency": now, "fluency_ratio": now / base if base else 1.0}


def measure_perplexity(
    session: Session, reference: Reference, policy: Policy, on_progress: OnProgress
) -> dict[str, float]:
    now = session.perplexity(reference.texts, policy.perplexity_tokens, on_progress)
    return {"perplexity": now, "perplexity_ratio": now / reference.perplexity}
