"""A version in service that nobody judged and that does harm, for tests of what finds it."""

import torch

from editing.weights import Factors
from tasks.lines.specs import read_line
from tasks.stores.manifest import Manifest
from tasks.update.session import open_session
from tasks.workplace import Workplace


def put_damage_in_service(workplace: Workplace, line: str) -> int:
    """A version that is whole and harmful, its weights being noise, put in service by nobody; its number."""
    spec, store = read_line(workplace.store.store, line), workplace.store
    session = open_session(spec, workplace.settings, only_asked=True)
    head = store.head(line)
    session.restore((one, store.tensors(one)) for one in store.chain(head.snapshot))
    noise, tensors = torch.Generator().manual_seed(0), {"z_star": torch.zeros(0, 1)}
    update = {}
    for name, weight in session.weights.base.items():
        rows, columns = session.weights.layout.oriented(weight).shape
        factors = Factors(torch.randn(rows, 8, generator=noise), torch.randn(8, columns, generator=noise))
        update[name] = factors
        tensors |= {f"B/{name}": factors.B, f"A/{name}": factors.A}
    session.weights.apply(update)
    manifest = Manifest(
        line=line,
        version=store.next_number(line),
        parent=head.snapshot,
        based_on=head.sequence,
        base=spec.model,
        base_digest=session.loaded.digest,
        config=spec.config.model_dump(mode="json"),
        request_ids=(),
        tensor_digests=session.weights.digests(),
        batch=1,
        mlflow_run_id=store.manifest(head.snapshot).mlflow_run_id,
    )
    version = store.publish(manifest, tensors)
    store.move_head(line, version, head, "promote", "nobody", "")
    return version.number
