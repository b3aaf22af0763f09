"""JSON Lines, and JSON values that are read as they come; a list element by element, never as a whole."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from editing.edit import shown
from editing.errors import ReadError
from editing.readers.lines import (
    RECORD_BYTES,
    BadLine,
    Broken,
    Found,
    Source,
    decoded,
    not_utf8,
    read_lines,
    skip_mark,
)
from editing.readers.told import Told
from editing.readers.values import Written

_CHUNK: Final = 1 << 16
_SPACE: Final = " \t\r\n"
_NOT_SPACE: Final = re.compile(f"[^{_SPACE}]")


def json_lines(plain: Path, told: Told) -> Source:
    """One object a line; blank lines are skipped but counted."""
    decoder = Decoder()
    with plain.open("rb") as file:
        for line in read_lines(file, told):
            try:
                if text := decoded(line).strip(_SPACE):
                    yield _parsed(decoder, text, line.number)
            except BadLine as bad:
                yield Broken(line.number, str(bad), bad.raw)


def elements(decoder: "Decoder", window: "Window") -> Iterator[object]:
    """The elements of the list that begins at the window, which is behind the list then.

    Raises:
        ReadError: the syntax is broken, where it names the line; what follows cannot be told apart into records.
    """
    window.at += 1
    closing = window.peek()
    while closing != "]":
        yield decoder.next_value(window)
        closing = window.peek()
        if closing not in (",", "]"):
            raise window.failure("',' or ']' is expected" + (f", not {shown(closing)}" if closing else ""))
        window.at += closing == ","
    window.at += 1


class TooLong(ReadError):
    """A value is longer than any record."""


class Decoder:
    """JSON whose objects must not name a field twice: which of two targets is meant cannot be guessed."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self._json = json.JSONDecoder(object_pairs_hook=self._object, parse_float=Written)

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            self.repeated.append(next(name for place, name in enumerate(names) if name in names[:place]))
        return fields

    def decode(self, text: str) -> object:
        self.repeated.clear()
        return self._json.decode(text)

    def next_value(self, window: "Window") -> object:
        """The value at window.at, reading on until it is whole.

        Raises:
            ReadError: it is no JSON, too long or nested too deeply.
        """
        window.peek()
        while True:
            self.repeated.clear()
            try:
                value, end = self._json.raw_decode(window.text, window.at)
            except RecursionError as error:
                raise window.failure("nested too deeply") from error
            except ValueError as error:
                # Perhaps only cut off by the end of the window: a longer text decides it.
                if len(window.text) - window.at > RECORD_BYTES:
                    limit = f" (a record has at most {RECORD_BYTES:,} characters)"
                    raise TooLong(str(window.syntax(error, limit))) from error
                if not window.read_on():
                    raise window.syntax(error) from error
                continue
            # A number that touches the end may have more digits to come.
            if end == len(window.text) and window.read_on():
                continue
            window.at = end
            return value


class Window:
    """A part of a text file that moves forward: text[at:] is not consumed yet."""

    def __init__(self, file: BinaryIO, path: Path, told: Told) -> None:
        self.text = ""
        self.at = 0
        self._told = told
        self._path = path
        self._file = file
        self._line = 1
        self._read = skip_mark(file)
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._ended = False

    def read_on(self) -> bool:
        """Forget what is consumed and read one chunk more; False at the end of the file."""
        if self._ended:
            return False
        data = self._file.read(_CHUNK)
        self._read += len(data)
        self._told.at = self._read
        self._ended = not data
        try:
            more = self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            position = self._read - len(error.object) + error.start
            raise ReadError(f"{str(self._path)!r} {not_utf8(error, position)}") from error
        self._line += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :] + more, 0
        return not self._ended

    def peek(self) -> str:
        """The next character that is no white space; '' at the end of the file."""
        while True:
            if found := _NOT_SPACE.search(self.text, self.at):
                self.at = found.start()
                return found[0]
            self.at = len(self.text)
            if not self.read_on():
                return ""

    def failure(self, reason: str, at: int | None = None) -> ReadError:
        line = self._line + self.text.count("\n", 0, self.at if at is None else at)
        return ReadError(f"{str(self._path)!r} line {line}: {reason}")

    def syntax(self, error: ValueError, remark: str = "") -> ReadError:
        if isinstance(error, json.JSONDecodeError):
            return self.failure(f"not JSON, {error.msg}{remark}", error.pos)
        return self.failure(f"not JSON, {error}{remark}")


def unrepeated(decoder: Decoder, row: int, value: object, raw: str | None = None) -> Found | Broken:
    if not decoder.repeated:
        return Found(row, value, raw)
    return Broken(row, f"field {shown(decoder.repeated[0])} stands in it twice; keep one of them", raw or "")


def _parsed(decoder: Decoder, text: str, number: int) -> Found | Broken:
    try:
        return unrepeated(decoder, number, decoder.decode(text), text)
    except json.JSONDecodeError as error:
        return Broken(number, f"line {number} is not JSON: {error.msg} at column {error.colno}", text)
    except RecursionError:
        return Broken(number, f"line {number} is nested too deeply", text)
    except ValueError as error:
        # json raises the plain class for an integer of thousands of digits.
        return Broken(number, f"line {number} is not JSON: {error}", text)
