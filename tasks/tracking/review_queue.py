"""Reviews inside MLflow with an identity: a queue for each version and reviewer, an item for each correction.

Where MLflow's authentication is on, its server writes who completed an item from who signed in, whatever the request
says, and lets nobody complete it who is not named in the queue. What a reviewer answers beside it proves nothing: who
may edit the experiment may write an answer in another's name, change it and delete it. So answers count for nothing
here. To submit an item is to approve its correction; who does not approve submits nothing, and refuses the version by
its tag or by `errata reject`. These parts of MLflow are experimental, and have no other client than its own.
"""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from editing.digests import json_digest
from editing.edit import shown
from tasks.markdown import literal
from tasks.stores.manifest import Version
from tasks.text import visible
from tasks.tracking.address import CONNECT_SECONDS
from tasks.tracking.client import Tracker

COMMENT = "Comment (Submit approves)"
"""The heading above the field: it stands there also while somebody writes why they do not approve."""
INSTRUCTION = (
    "A few words, then Submit approves this correction. If you do not approve, submit nothing: set the tag review of "
    "the version to rejected, or use errata reject."
)
GRANT = "/api/3.0/mlflow/users/permissions/grant"
_REFUSED = {
    "RESOURCE_DOES_NOT_EXIST": "there is no such account, so make one at /signup",
    "PERMISSION_DENIED": "the account that Errata signs in with may give nobody the right EDIT on its experiment",
}


@dataclass(frozen=True)
class Question:
    """One correction as its reviewer sees it: what was asked, and what base and candidate answer."""

    request_id: str
    question: str
    base: str
    candidate: str
    wanted: str = ""
    """Where it is not what the candidate answers."""


@dataclass(frozen=True)
class Vote:
    """What one reviewer came to."""

    reviewer: str
    decision: Literal["approved", "rejected"]
    comment: str
    proven: bool
    """Whether MLflow has authenticated the reviewer."""


def let_in(tracker: Tracker, reviewers: Sequence[str]) -> list[str]:
    """Give each reviewer the right to submit, safe to repeat; returns who cannot have it and why, a line each.

    MLflow's page lets nobody submit who has no right of their own to edit the experiment. What its server allows
    everybody (`default_permission`) is unknown to the page. A right that somebody has already stays as it is.
    """
    from mlflow.exceptions import MlflowException  # takes seconds, and only whoever tracks needs it
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    said, asked = [], {"resource_type": "experiment", "resource_id": tracker.experiment_id, "permission": "EDIT"}
    with tracker.refusals("let reviewers in"):
        credentials = tracker._client._tracking_client.store.get_host_creds()
        for name in reviewers:
            answer = http_request(credentials, GRANT, "POST", json=asked | {"username": name})
            try:
                verify_rest_response(answer, GRANT)
            except MlflowException as error:
                if error.error_code in _REFUSED:
                    said.append(f"{shown(name)} cannot review in MLflow at {tracker.uri}: {_REFUSED[error.error_code]}")
                elif error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
    return said


def ensure_queue(tracker: Tracker, version: Version, reviewers: Sequence[str], questions: Sequence[Question]) -> None:
    """Give each reviewer, by the name they sign in with, a queue of the version's corrections; safe to repeat.

    A queue that has them all is left as it is.
    """
    line, items = version.manifest.line, [item_of(version, question.request_id) for question in questions]
    with tracker.refusals(f"open the review queues of version {version.number} of line {line!r}"):
        client: Any = tracker._client._tracing_client
        there = {queue.name: queue.queue_id for queue in _queues(client, tracker.experiment_id, version)}
        open_ones = {
            name: reviewer
            for reviewer in reviewers
            if (name := f"{_prefix(version)}{reviewer}") not in there
            or {*items} - {item.item_id for item in _pages(client._list_review_queue_items, there[name])}
        }
        if not open_ones:
            return
        for item, question in zip(items, questions, strict=True):
            _show(client, tracker.experiment_id, item, question)
        schema = _schema(client, tracker.experiment_id)
        for name, reviewer in open_ones.items():
            if name not in there:
                made = client._create_review_queue(
                    tracker.experiment_id, name=name, queue_type="custom", users=[reviewer], schema_ids=[schema]
                )
                there[name] = made.queue_id
            client._add_items_to_review_queue(there[name], item_ids=items)


def verdicts(tracker: Tracker, version: Version) -> list[Vote]:
    """What reviewers came to, by name: approved where one reviewer has submitted every correction of the version.

    An item that a reviewer declined is a rejection; of one that is done already, MLflow keeps who did it first.
    `proven` is true only where the server asks who comes to sign in.
    """
    wanted = {item_of(version, name) for name in version.manifest.request_ids}
    with tracker.refusals(f"read the review queues of version {version.number} of line {version.manifest.line!r}"):
        client: Any = tracker._client._tracing_client
        done: dict[str, set[str]] = {}
        declined: set[str] = set()
        for queue in _queues(client, tracker.experiment_id, version):
            for item in _pages(client._list_review_queue_items, queue.queue_id):
                if item.item_id in wanted and item.completed_by:
                    done.setdefault(item.completed_by, set()).add(item.item_id)
                    declined |= {item.completed_by} if item.status == "declined" else set()
    proven = bool(done) and authenticates(tracker.uri)
    rejected = [Vote(name, "rejected", "", proven) for name in sorted(declined)]
    approved = [Vote(name, "approved", "", proven) for name in sorted(done.keys() - declined) if done[name] >= wanted]
    return rejected + approved


def authenticates(uri: str) -> bool:
    """Whether the server at an address refuses who does not sign in; a database has no users."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https"):
        return False
    base = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path.rstrip('/')}"
    try:
        with urllib.request.urlopen(f"{base}/api/2.0/mlflow/experiments/search?max_results=1", timeout=CONNECT_SECONDS):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 401
    except (OSError, ValueError):
        return False


def _prefix(version: Version) -> str:
    return f"{version.manifest.line} v{version.number} {version.snapshot[:8]}: "


def item_of(version: Version, request_id: str) -> str:
    """The trace of a correction: the same each time it is made."""
    return "tr-" + json_digest([version.manifest.line, version.number, version.snapshot, request_id])[:32]


def _queues(client: Any, experiment: str, version: Version) -> Iterator[Any]:
    found = _pages(client._list_review_queues, experiment)
    return (queue for queue in found if queue.name.startswith(_prefix(version)))


def _pages(ask: Any, about: str) -> Iterator[Any]:
    page = ask(about)
    yield from page
    while page.token:
        page = ask(about, page_token=page.token)
        yield from page


def _schema(client: Any, experiment: str) -> str:
    """The one question of a queue, for a comment; MLflow shows its instruction."""
    from mlflow.exceptions import MlflowException  # takes seconds, and only whoever tracks needs it
    from mlflow.genai.label_schemas import InputText

    try:
        made = client._create_label_schema(
            experiment, name=COMMENT, type="feedback", input=InputText(), instruction=INSTRUCTION
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        made = client._get_label_schema_by_name(experiment, COMMENT)
    return str(made.schema_id)


def _show(client: Any, experiment: str, item: str, question: Question) -> None:
    """The trace that a queue's item points to; MLflow makes one of a span."""
    from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState  # takes seconds, as above

    now = time.time_ns()
    answers = {"before": question.base, "after": question.candidate} | (
        {"wanted": question.wanted} if question.wanted else {}
    )
    client.start_trace(
        TraceInfo(
            trace_id=item,
            trace_location=TraceLocation.from_experiment_id(experiment),
            request_time=now // 10**6,
            state=TraceState.OK,
            request_preview=_as_text(question.question),
            response_preview=_as_text(answers),
            execution_duration=0,
            tags={"mlflow.traceName": "correction"},
        )
    )
    attributes = {
        "mlflow.traceRequestId": item,
        "mlflow.spanType": "UNKNOWN",
        "mlflow.spanInputs": {
            "question": literal(question.question)
        },  # the page of a whole trace takes it for Markdown
        "mlflow.spanOutputs": {name: literal(text) for name, text in answers.items()},
    }
    span: dict[str, Any] = {
        "trace_id": _base64(item[3:]),
        "span_id": _base64(item[3:19]),
        "parent_span_id": None,
        "name": "correction",
        "start_time_unix_nano": now,
        "end_time_unix_nano": now,
        "events": [],
        "links": [],
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {name: json.dumps(value) for name, value in attributes.items()},
    }
    client.log_spans(experiment, [Span.from_dict(span)])


def _as_text(value: str | dict[str, str]) -> str:
    """What MLflow's page of an item shows as it is: JSON. It takes anything else for Markdown, with links and pictures.

    Cut, since MLflow would cut it to 1,000 characters, and half of an object is no JSON.
    """
    cut = _cut(value, 400) if isinstance(value, str) else {name: _cut(text, 120) for name, text in value.items()}
    return json.dumps(cut, ensure_ascii=False)


def _cut(text: str, most: int) -> str:
    flat = " ".join(visible(text).split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()
