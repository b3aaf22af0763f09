"""A shard of what a job shares out as a flow: the job starts one for each worker that it asks for."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.endings import completed, ended_well
from tasks.runlog import told_to_prefect
from tasks.update.shards import ShardDone, search_shard
from tasks.workplace import open_workplace

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The search, by its digest in the store.")]
First = Annotated[int, Field(ge=0, description="The first chunk of this shard.")]
Every = Annotated[int, Field(ge=1, description="How many shards there are.")]


@flow(name="values-shard", flow_run_name="{line} {first} of {every}", persist_result=False)
@ended_well
def values_shard(line: str, search: Digest, first: First = 0, every: Every = 1) -> ShardDone:
    """Prepare a job's base, search values of its facts, or ask its candidate. Jobs start it, nobody by hand.

    Args:
        line: The line that the job works on.
        search: The search, by its digest in the store.
        first: The first chunk of this shard.
        every: How many shards there are.

    Killed, it has lost the chunk that it was at. What was found before stays, and the job starts the rest again.

    Raises:
        UsageError, ModelError: release, base or configuration of this worker are not the job's.
    """
    workplace = open_workplace()
    with told_to_prefect("facts"):
        done = search_shard(workplace.store.store, workplace.settings, search, first, every)
    return completed(done, done.said)
