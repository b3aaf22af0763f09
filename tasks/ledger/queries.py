"""The questions to the table of events, in DuckDB's SQL; what users wrote is passed as a parameter, never as SQL.

Times come as microseconds since 1970: with a zone, DuckDB hands them out by way of a library that need not be there.

Order is the number of the commit and the place in it. Rows of release 0.1 have no number: they come first, by the time
and place that they have, and of several with one id the first counts. Later releases never write an id twice, so how
many there are is counted once, when a table is brought up.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import duckdb
from deltalake import DeltaTable

from tasks.ledger.events import FIRST, NOTES, TRANSITIONS, State
from tasks.ledger.scanning import COLUMNS, Wanted, relation

REPEATED_KEY = "errata.repeated"
"""The property of a table that says how many events of release 0.1 stand in it twice; at 0 none is looked for."""

STATES: tuple[State, ...] = get_args(State)
_WIDTH = len(STATES) + 1  # 0 is a request that nothing is known of
LEGAL = [
    int(new > 0 and STATES[new - 1] in (TRANSITIONS[STATES[old - 1]] if old else FIRST))
    for old in range(_WIDTH)
    for new in range(_WIDTH)
]
"""1 where a state (row) may become another (column): a parameter, since a literal would be built for each event."""
_QUEUED = STATES.index("queued") + 1
_CODE = "CASE event " + " ".join(f"WHEN '{state}' THEN {code}" for code, state in enumerate(STATES, 1)) + " ELSE 0 END"
_PACK = 32  # a fold's value is state + 32 version
assert _WIDTH <= _PACK

_ALL = ", ".join(f'"{name}"' for name in COLUMNS)

_PLACES = 2**24
"""More than the rows of any commit: commit * _PLACES + sequence is a total order in one number."""
_BEFORE, _SECONDS_2020 = 2**63 - 1, 1_577_836_800
# Of release 0.1: microseconds since 2020 (50 bits, 35 years) and the place in the append (13 bits), all below zero.
_PLACE = f"""CASE WHEN "commit" IS NOT NULL THEN "commit" * {_PLACES} + sequence ELSE
    least(greatest(epoch_us(time) - {_SECONDS_2020}000000, 0), {2**50 - 1}) * 8192 + least(sequence, 8191) - {_BEFORE}
    END"""

# A step that no request can take changes nothing; `queued` begins an attempt, which has no version yet.
_FOLD = f"""list_reduce(
    list_prepend(0::BIGINT, list(({_CODE})::BIGINT + {_PACK} * coalesce(version, 0) ORDER BY place)),
    lambda state, step: CASE
        WHEN list_extract($legal, (state % {_PACK}) * {_WIDTH} + step % {_PACK} + 1) = 0 THEN state
        WHEN step % {_PACK} = {_QUEUED} THEN step % {_PACK}
        WHEN step < {_PACK} THEN step + state - state % {_PACK}
        ELSE step END)"""

STANDINGS = f"""
SELECT line, request_id, {_FOLD} AS fold, count(*) AS events,
    list(version) FILTER (WHERE event = 'committed' AND version IS NOT NULL) AS committed
FROM ledger GROUP BY line, request_id
"""

REQUESTS = f"""
WITH folded AS (SELECT line, request_id, {_FOLD} AS fold FROM ledger GROUP BY line, request_id),
attempts AS (
    SELECT *, count(*) FILTER (WHERE event = 'queued') OVER so_far AS attempt FROM ledger
    WHERE event NOT IN {NOTES}
    WINDOW so_far AS (PARTITION BY line, request_id ORDER BY place)
),
latest AS (
    SELECT request_id, line, time, actor, flow_run_id, mlflow_run_id, reason, place,
        last_value(batch IGNORE NULLS) OVER attempt_so_far AS batch,
        last_value(snapshot IGNORE NULLS) OVER attempt_so_far AS snapshot,
        last_value(metrics IGNORE NULLS) OVER attempt_so_far AS metrics,
        last_value(CASE WHEN event = 'received' THEN time END IGNORE NULLS) OVER so_far AS received,
        last_value(CASE WHEN event = 'received' THEN payload END IGNORE NULLS) OVER so_far AS payload
    FROM attempts
    WINDOW so_far AS (PARTITION BY line, request_id ORDER BY place),
        attempt_so_far AS (PARTITION BY line, request_id, attempt ORDER BY place)
    QUALIFY lead(place) OVER so_far IS NULL
)
SELECT latest.* EXCLUDE (place) REPLACE (epoch_us(time) AS time, epoch_us(received) AS received), fold
FROM latest JOIN folded USING (line, request_id) ORDER BY place
"""

QUEUE = """
SELECT request_id FROM ledger
WHERE event = 'queued' GROUP BY request_id ORDER BY max(place)
"""

PAYLOADS = """
SELECT request_id, arg_max(payload, place) AS payload FROM ledger
WHERE event = 'received' GROUP BY request_id
"""

HISTORY = """
WITH latest AS (
    SELECT * FROM ledger
    WHERE $version IS NULL OR version = $version
    ORDER BY place DESC LIMIT $limit
)
SELECT * EXCLUDE (place, digest) REPLACE (epoch_us(time) AS time) FROM latest ORDER BY place
"""

ROWS = """
SELECT * EXCLUDE (place) REPLACE (epoch_us(time) AS time) FROM ledger ORDER BY place
"""

STEPS = "SELECT line, request_id, event, event_id, payload FROM ledger ORDER BY place"


# By way of a function: a plain IS NULL is handed down to Arrow's scan, which knows nothing of a column in old files.
REPEATED = 'SELECT count(*) - count(DISTINCT event_id) AS events FROM whole WHERE coalesce("commit", -1) < 0'


def run(
    table: DeltaTable, sql: str, *, line: str | None = None, requests: Sequence[str] | None = None, **parameters: Any
) -> list[tuple[Any, ...]]:
    """The rows that `sql` finds in the relation `ledger`: each event of the table once, or those of a line or of some
    requests. `whole` is the same with what release 0.1 wrote twice."""
    return _answer(table, sql, Wanted(line, requests), parameters)[1]


def run_named(
    table: DeltaTable,
    sql: str,
    *,
    line: str | None = None,
    requests: Sequence[str] | None = None,
    after: int | None = None,
    **parameters: Any,
) -> list[dict[str, Any]]:
    """The same, each row by the names of its columns; with `after` of the events after this commit."""
    names, rows = _answer(table, sql, Wanted(line, requests, after), parameters)
    return [dict(zip(names, row, strict=True)) for row in rows]


def each_named(table: DeltaTable, sql: str, at_once: int = 10_000) -> Iterator[dict[str, Any]]:
    """The same of the whole table, row by row, for more than would be held at once."""
    with _database().cursor() as connection:
        found = connection.execute(*_question(connection, table, sql, Wanted(), {}))
        names = [name for name, *_ in found.description or ()]
        while some := found.fetchmany(at_once):
            yield from (dict(zip(names, row, strict=True)) for row in some)


def _answer(
    table: DeltaTable, sql: str, wanted: Wanted, parameters: dict[str, Any]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    with _database().cursor() as connection:
        rows = connection.execute(*_question(connection, table, sql, wanted, parameters)).fetchall()
        return [name for name, *_ in connection.description or ()], rows


def _question(
    connection: duckdb.DuckDBPyConnection,
    table: DeltaTable,
    sql: str,
    wanted: Wanted,
    parameters: dict[str, Any],
) -> tuple[str, dict[str, Any]]:
    """The whole SQL and its parameters."""
    once = "" if table.metadata().configuration.get(REPEATED_KEY) == "0" else "DISTINCT ON (event_id)"
    first = "ORDER BY place" if once else ""
    whole, values = relation(connection, table, wanted)
    known = (
        f"whole AS NOT MATERIALIZED ({whole}), "
        f"ledger AS NOT MATERIALIZED (SELECT {once} {_ALL}, {_PLACE} AS place FROM whole {first})"
    )
    own = sql.strip().removeprefix("WITH ")
    question = f"WITH {known}{' ' if own == sql.strip() else ', '}{own}"
    values |= {name: value for name, value in {**parameters, "legal": LEGAL}.items() if f"${name}" in sql}
    return question, values


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, in which nothing is kept: to open it takes as long as most answers do."""
    return duckdb.connect(":memory:", config={"enable_external_file_cache": False})


@functools.cache  # of many requests, most stand in one of a few ways
def unfolded(fold: int) -> tuple[State | None, int | None]:
    """State and version out of a fold's value; the state is None where no event of the request was legal."""
    code, version = fold % _PACK, fold // _PACK
    return (STATES[code - 1] if code else None), version or None
