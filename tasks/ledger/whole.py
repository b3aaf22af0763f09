"""Whether the log of the ledger's table speaks of all that happened: what who reads the rows alone does not see."""

from collections.abc import Iterator

from deltalake import DeltaTable

from tasks.ledger.queries import run


def log_faults(table: DeltaTable) -> Iterator[str]:
    """What is wrong with the table's log, a sentence each.

    Commits that its own upkeep has removed, after a month and a checkpoint, are not missed.
    """
    history = table.history()
    known = {entry.get("version") for entry in history}
    lost = [number for number in range(table.version() + 1) if number not in known]
    if lost and history[-1].get("operation") == "CREATE TABLE":
        names = f"_delta_log/{lost[0]:020d}.json{' among them' if len(lost) > 1 else ''}"
        yield f"{len(lost)} of the {table.version() + 1} commits of its log are damaged ({names})"
    said = table.get_add_actions(flatten=True)
    expected = sum(number or 0 for number in said["num_records"].to_pylist())
    present = run(table, "SELECT count(*) FROM whole")[0][0]
    if expected != present:
        yield f"its files hold {present:,} events, its log says {expected:,}"
