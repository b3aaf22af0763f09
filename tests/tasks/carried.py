"""A line of a tiny random model with real versions, each a batch of facts that the ledger knows; and its server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn

from editing.edit import Edit
from editing.layout import layout_of
from editing.models import load_model, quiet_transformers
from editing.weights import EditedWeights, Factors
from tasks.ledger import intake
from tasks.ledger.catching_up import catch_up, version_events
from tasks.lines.specs import LineSpec, save_line
from tasks.review.asking import load_base
from tasks.serving.engine import Engine
from tasks.serving.server import application
from tasks.settings import Settings
from tasks.stores.batches import FINISHED, restore_weights
from tasks.stores.manifest import Manifest, Version
from tasks.workplace import Workplace, open_workplace
from tests.conftest import tiny_model
from tests.editing.test_chat import TEMPLATE

LINE = "line"
WEIGHTS = tuple(f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2))
RANK = 3


def tiny_folder(folder: Path, *, chat: bool = True) -> Path:
    made = tiny_model("llama")
    with quiet_transformers():
        made.tokenizer.chat_template = TEMPLATE if chat else None
        made.model.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    return folder


class CarriedLine:
    """A fresh installation with one line; `make` adds versions, `serve` moves HEAD."""

    def __init__(
        self,
        folder: Path,
        *,
        chat: bool = True,
        template: str = "raw",
        dtype: str = "float32",
        base: str = "",
        system: str | None = None,
    ) -> None:
        model = base or tiny_folder(folder / "model", chat=chat)
        self.settings = Settings(home=folder / "home", cache=folder / "cache", model=str(model), actor="ann")
        self.workplace: Workplace = open_workplace(self.settings)
        self.spec = LineSpec(line=LINE, model=str(model), template=template, dtype=dtype, system=system)
        save_line(self.workplace.store.store, self.spec)

    def make(self, facts: int = 2, *, strength: float = 0.3, root: bool = False, subject: str = "Ada") -> Version:
        """The next version; a root's finished tensors stand in the place of factors."""
        store, ledger = self.workplace.store, self.workplace.ledger
        number, head = store.next_number(LINE), store.head(LINE)
        parent = store.version(LINE, number - 1) if number > 1 else None
        edits = [
            Edit(
                id=f"r{number}-{i}",
                subject=f"{subject} {number}{i}",
                prompt="{} was born in the city of",
                target_new="Rome",
                target_true="London",
                neighborhood=[{"prompt": "The river Nile flows" if i else "So long " * 150, "answer": "through"}],
            )
            for i in range(facts)
        ]
        intake.submit(ledger, LINE, edits, "ann")
        loaded = load_model(self.spec.model, dtype=self.spec.dtype, cache=self.settings.cache_folder)
        weights = EditedWeights(loaded.model, layout_of(loaded.model))
        chain = store.chain(parent.snapshot if parent and not root else None)
        restore_weights(loaded, weights, None, [(one, store.tensors(one)) for one in chain])
        tensors = factors(loaded.model, number, strength)
        weights.apply({name: Factors(tensors[f"B/{name}"], tensors[f"A/{name}"]) for name in WEIGHTS})
        digests = weights.digests()
        if root:
            tensors = {FINISHED + name: loaded.model.get_parameter(name).detach().clone() for name in WEIGHTS}
        names = tuple(edit.id for edit in edits)
        manifest = Manifest(
            line=LINE, version=number, parent=None if root or parent is None else parent.snapshot,
            based_on=head.sequence if head else 0, base=self.spec.model, base_digest=loaded.digest, config={},
            request_ids=names, tensor_digests=digests, metrics={"efficacy_prob": 1.0}, batch=1,
            **({"live": names, "after": parent.snapshot if parent else None} if root else {}),
        )  # fmt: skip
        version = store.publish(manifest, tensors)
        ledger.append_possible(version_events(version, "job"))
        return version

    def serve(self, version: Version | None) -> None:
        self.workplace.store.move_head(LINE, version, self.workplace.store.head(LINE), "promote", "ann", "")
        catch_up(self.workplace.store, self.workplace.ledger, LINE, "ann")


def factors(model: torch.nn.Module, seed: int, strength: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in WEIGHTS:
        m, d = model.get_parameter(name).shape
        made[f"B/{name}"] = strength * torch.randn(m, RANK, generator=generator)
        made[f"A/{name}"] = strength * torch.randn(RANK, d, generator=generator)
    return made


@contextmanager
def answering(line: CarriedLine, most_waiting: int = 256) -> Iterator[tuple[str, Engine]]:
    """The line behind a real web server: its address and engine."""
    engine = Engine(load_base(line.workplace, line.spec), line.workplace.store, LINE, most_waiting, line.spec.system)
    engine.follow()
    engine.start()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(engine), log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", engine
    finally:
        server.should_exit = True
        thread.join()
        engine.stop()
