"""Errors of the converters: named, collected, and listed by kind."""

from __future__ import annotations

MAX_SHOWN = 10


class ConversionError(ValueError):
    """What a user gave cannot be converted; the message says why."""


class Problems:
    """Collects problems, so that one run tells about all of them.

    Examples:
        >>> problems = Problems()
        >>> problems.add('missing images', 'labels.csv:3: a.jpg')
        >>> problems.check()
        Traceback (most recent call last):
        ltml_mm.datasets.converters.errors.ConversionError: missing images: 1
          labels.csv:3: a.jpg
    """

    def __init__(self) -> None:
        self._shown: dict[str, list[str]] = {}
        self._totals: dict[str, int] = {}

    def add(self, kind: str, message: str) -> None:
        """Notes a problem; the first ten of a kind are shown."""
        shown = self._shown.setdefault(kind, [])
        self._totals[kind] = self._totals.get(kind, 0) + 1
        if len(shown) < MAX_SHOWN:
            shown.append(message)

    def check(self) -> None:
        """Raises one error that lists all problems, if there are any.

        Raises:
            ConversionError: At least one problem was added.
        """
        if not self._totals:
            return
        lines = []
        for kind, shown in self._shown.items():
            total = self._totals[kind]
            first = f', the first {MAX_SHOWN}' if total > len(shown) else ''
            lines.append(f'{kind}: {total}{first}')
            lines.extend(f'  {message}' for message in shown)
        raise ConversionError('\n'.join(lines))
