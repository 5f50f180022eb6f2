"""Reads text and JSON strictly, with the line of whatever is wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

from ltml_mm.datasets.converters.errors import ConversionError

# Strings, brackets and words of a JSON text; the rest does not matter here.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]|-?[A-Za-z]+')
_GAP = re.compile(r'[ \t\n\r,:]*')


def read_text(path: str | os.PathLike) -> str:
    """Reads a UTF-8 text file, with or without a byte order mark.

    Args:
        path: The file.

    Returns:
        str: Its text.

    Raises:
        ConversionError: The file cannot be read, is a pickle, or is not
            UTF-8 text.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}') from error
    if data.startswith(b'\x80'):
        raise ConversionError(
            f'{path}: is a pickle, which could run any code when loaded, so '
            'it is not read; give a plain text file with one entry a line'
        )
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise ConversionError(
            f'{path}:{line}: not UTF-8 text (byte '
            f'0x{data[error.start]:02x}); save the file as UTF-8'
        ) from error


def read_json(path: str | os.PathLike, keep: set[str] | None = None) -> Any:
    """Reads a JSON file; refuses what readers of JSON disagree about.

    Args:
        path: The file.
        keep: The keys to keep of every object, None for all. Saves memory
            where the rest is large, as are the outlines of COCO's objects.

    Returns:
        Any: The value of the file.

    Raises:
        ConversionError: The file cannot be read or is not valid JSON, a key
            repeats within an object, or a number is NaN or infinite.
    """
    text = read_text(path)

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise _Refused
        if keep is None:
            return values
        return {k: v for k, v in pairs if k in keep}

    try:
        return json.loads(
            text, object_pairs_hook=as_dict, parse_constant=_refuse
        )
    except json.JSONDecodeError as error:
        raise ConversionError(
            f'{path}:{error.lineno}: not valid JSON, column {error.colno}: '
            f'{error.msg}'
        ) from error
    except _Refused:
        offset, reason = _find_refused(text)
        line = text.count('\n', 0, offset) + 1
        raise ConversionError(f'{path}:{line}: {reason}') from None
    except RecursionError:
        raise ConversionError(f'{path}: nested too deeply') from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConversionError(f'{path}: not valid JSON: {error}') from error


class EntryLines:
    """Finds the lines of list entries in a JSON file, when asked to.

    Args:
        path: A file that :func:`read_json` accepts; an object.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lines: dict[str, list[int]] = {}

    def place(self, key: str, index: int) -> str:
        """Words where an entry stands.

        Args:
            key: The name of a list in the file.
            index: An index into it.

        Returns:
            str: File, line and entry, for messages.
        """
        if key not in self._lines:
            self._lines[key] = _find_lines(read_text(self.path), key)
        return f'{self.path}:{self._lines[key][index]}: {key}[{index}]'


def _find_lines(text: str, key: str) -> list[int]:
    decode = json.JSONDecoder().raw_decode
    position = _skip(text, _skip(text, 0) + 1)
    while text[position] != '}':
        name, position = decode(text, position)
        position = _skip(text, position)
        if name == key:
            return _element_lines(text, position, decode)
        position = _skip(text, decode(text, position)[1])
    return []


class _Refused(Exception):  # noqa: N818
    """Unwinds the decoder, which does not tell its hooks where it is."""


def _refuse(_constant: str) -> Any:
    raise _Refused


def _find_refused(text: str) -> tuple[int, str]:
    """Finds the first repeated key or non-finite number."""
    objects: list[set[str]] = []
    last = None
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in '{[':
            objects.append(set())
        elif word in '}]':
            objects.pop()
        elif word == ':' and last is not None:
            key = json.loads(last[0])
            if key in objects[-1]:
                return last.start(), f'the key {key!r} repeats in an object'
            objects[-1].add(key)
        elif word in ('NaN', 'Infinity', '-Infinity'):
            return token.start(), f'{word} is not a number of JSON'
        last = token
    return 0, 'a key repeats, or a number is not finite'


def _skip(text: str, position: int) -> int:
    match = _GAP.match(text, position)
    return match.end() if match else position


def _element_lines(
    text: str, position: int, decode: Callable[..., tuple[Any, int]]
) -> list[int]:
    lines = []
    line, counted = 1, 0
    position = _skip(text, position + 1)
    while text[position] != ']':
        line += text.count('\n', counted, position)
        counted = position
        lines.append(line)
        position = _skip(text, decode(text, position)[1])
    return lines
