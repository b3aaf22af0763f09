"""Records in a JSON file, however it holds them: a list, lines, an object of lists, columns."""

import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

from editing.edit import shown
from editing.errors import ReadError
from editing.readers.forms import FORMS, form_of
from editing.readers.json_values import Decoder, TooLong, Window, elements, json_lines, unrepeated
from editing.readers.lines import RECORD_BYTES, Broken, Found, Source
from editing.readers.told import Told
from editing.readers.values import is_list

WHOLE_BYTES: Final = 100_000_000
"""The largest file of columns, which cannot be read record by record."""
_KNOWN: Final = frozenset[str]().union(*(form.read.union(form.inside) for form in FORMS))
"""What any form has: a list of objects that have none of it tells of the file."""
_OF_COLUMNS: Final = ("subject", "prompt", "src", "update", "question", "case_id", "id")
"""Fields of which no record has several."""


def json_records(plain: Path, path: Path, told: Told) -> Source:
    """The records of a JSON file.

    Raises:
        ReadError: the syntax is broken, where it names the line; what follows cannot be told apart into records.
    """
    if is_lines(plain):
        yield from json_lines(plain, told)
        return
    rows, decoder = count(1), Decoder()
    with plain.open("rb") as file:
        window = Window(file, path, told)
        opening = window.peek()
        if opening == "[":
            for value in elements(decoder, window):
                yield unrepeated(decoder, next(rows), value)
            if window.peek():
                raise window.failure("text follows the list; remove it")
            return
        if not opening:
            return
        if opening != "{":
            raise window.failure(f"{shown(opening)} begins neither a list nor an object")
        try:
            value = decoder.next_value(window)
        except TooLong as error:
            value = error
        if not isinstance(value, TooLong):
            if not window.peek():
                yield from _of_object(value, path, rows, decoder, told)
                return
            yield unrepeated(decoder, next(rows), value)  # objects one after another
            while (opening := window.peek()) == "{":
                yield unrepeated(decoder, next(rows), decoder.next_value(window))
            if opening:
                raise window.failure("text follows the object; make it a list, or one object a line")
            return
    yield from _of_large_object(plain, path, told, value)


def is_lines(plain: Path) -> bool:
    """Whether the first line is an object by itself, and others follow."""
    with plain.open("rb") as file:
        line, more = file.readline(RECORD_BYTES), file.read(1)
    if not more or not line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _of_large_object(plain: Path, path: Path, told: Told, error: TooLong) -> Source:
    """The records of an object of lists, one by one; of columns from the whole file."""
    rows, decoder, found = count(1), Decoder(), False
    with plain.open("rb") as file:
        window = Window(file, path, told)
        window.peek()
        mark = "{"
        while mark != "}":
            window.at += 1  # behind the { or the comma
            decoder.next_value(window)
            if window.peek() != ":":
                raise window.failure("':' is expected")
            window.at += 1
            if window.peek() == "[":
                for value in elements(decoder, window):
                    if not isinstance(value, Mapping):
                        found = False
                        break
                    found = True
                    yield unrepeated(decoder, next(rows), _unwrapped(value))
                else:
                    mark = window.peek()
                    continue
                break
            if window.peek() == "{" and not found:
                break
            decoder.next_value(window)
            mark = window.peek()
        else:
            return
    if found or plain.stat().st_size > WHOLE_BYTES:
        raise error
    try:
        value = decoder.decode(plain.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as broken:
        raise ReadError(f"{str(path)!r}: not JSON, {broken}") from broken
    yield from _of_object(value, path, rows, decoder, told)


def _of_object(value: Any, path: Path, rows: Iterator[int], decoder: Decoder, told: Told) -> Source:
    """An object that is a record, or holds some."""
    held = _held(value, path)
    if held is None:
        yield unrepeated(decoder, next(rows), value)
        return
    if decoder.repeated:
        name = shown(decoder.repeated[0])
        raise ReadError(f"{str(path)!r}: field {name} stands in an object twice; keep one of them")
    told.size = len(held)  # the bytes were read before the first record is told
    for told.at, record in enumerate(held):
        yield record._replace(row=next(rows)) if isinstance(record, Broken) else Found(next(rows), record)


def _row_of(columns: list[Any], row: Any) -> Any:
    if not is_list(row):
        return row
    if len(row) != len(columns):
        reason = f"the record has {len(row)} values and there are {len(columns)} columns; give one for each"
        return Broken(0, reason, shown(row))
    return dict(zip(columns, row, strict=True))


def _held(value: Mapping[str, Any], path: Path) -> list[Any] | None:
    """The records that an object holds, of columns, of splits, or by their names; None where it is a record."""
    if _is_columns(value):
        return _rows_of(value, path)
    if is_list(value.get("columns")) and is_list(value.get("data")):
        return [_row_of(value["columns"], row) for row in value["data"]]
    if not form_of(value).own or any(name in value for name in FORMS[-1].read):
        return None
    found: list[Any] = []
    for member in value.values():
        if is_list(member) and member and all(isinstance(one, Mapping) for one in member):
            rows = [*map(_unwrapped, member)]
            if any(not _KNOWN.isdisjoint(row) for row in rows):
                found += rows
        elif isinstance(member, Mapping):
            held = _held(member, path)
            found += ([member] if _is_record(member) else []) if held is None else held
    return found or None


def _unwrapped(value: Any) -> Any:
    """What the viewer of a hub says of a row, beside the row."""
    row = value.get("row") if isinstance(value, Mapping) else None
    return row if isinstance(row, Mapping) else value


def _is_record(value: Mapping[str, Any]) -> bool:
    return not form_of(value).own or "subject" in value


def _is_columns(value: Mapping[str, Any]) -> bool:
    found = [value[name] for name in _OF_COLUMNS if value.get(name) is not None]
    return bool(found) and all(is_list(one) or isinstance(one, Mapping) for one in found)


def _rows_of(columns: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    lists = {name: [*one.values()] if isinstance(one, Mapping) else one for name, one in columns.items()}
    lists = {name: one for name, one in lists.items() if is_list(one)}  # others tell of the file
    lengths = {name: len(one) for name, one in lists.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{shown(name)} {size}" for name, size in lengths.items())
        raise ReadError(f"{str(path)!r} holds columns of unequal length ({told}); give each a value for every record")
    names = [*lists]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists.values(), strict=True)]
