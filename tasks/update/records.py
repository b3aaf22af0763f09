"""How a batch or a root was judged, as its version keeps it: enough to judge it again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from editing.covariance import text_digest
from editing.edit import Edit
from editing.errors import PolicyError
from tasks.report.data import Check
from tasks.update.gates import Tripwires
from tasks.update.policy import Policy
from tasks.update.run import Reference
from tasks.update.session import Session

NO_TRIPWIRES = dict.fromkeys(Tripwires.model_fields)
"""Of a policy that was stored before there were any."""


@dataclass(frozen=True)
class Record:
    """How something was judged."""

    policy: Policy
    checks: tuple[Check, ...]
    text: str | None = None
    """Digest of the text that perplexity was taken on; None: what the base sampled itself."""
    earlier: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    """Requests of earlier facts that were asked, too: a sample, and those of like keys. Of a root the sample is all."""


def record_of(
    policy: Policy,
    session: Session,
    reference: Reference,
    earlier: Sequence[Edit],
    beside: Sequence[Edit],
    checks: Sequence[Check],
) -> dict[str, Any]:
    """A verdict as JSON's own types."""
    own = list(reference.texts) == list(session.held_out)
    return {
        "policy": policy.model_dump(mode="json", exclude={"workers"}),  # who searched it is no part of it
        "text": None if own else text_digest(reference.texts),
        "earlier": [edit.id for edit in earlier],
        "beside": [edit.id for edit in beside],
        "checks": [json.loads(check.model_dump_json()) for check in checks],
    }


def read_record(stored: Mapping[str, Any]) -> Record:
    """What `record_of` gave. Raises PolicyError where this release does not know what stands in it."""
    try:
        return Record(
            stored_policy(stored["policy"]),
            tuple(Check.model_validate(one) for one in stored["checks"]),
            stored["text"],
            tuple(stored["earlier"]),
            tuple(stored["beside"]),
        )
    except (KeyError, TypeError, ValidationError) as error:
        said = str(error).splitlines()[0]
        raise PolicyError(
            f"the stored verdict cannot be read ({said}); judge it with the release that wrote it"
        ) from error


def stored_policy(fields: Mapping[str, Any]) -> Policy:
    """A policy that a report or a version holds, as it was meant: what it does not name was not there."""
    return Policy.model_validate({"tripwires": NO_TRIPWIRES, "levels": {}, "live_facts": 0, **fields})
