"""Writes the report of a comparison: every run, the table, the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltml_mm.experiments import comparison_figures
from ltml_mm.experiments.results import Spec, parse_spec, read_runs
from ltml_mm.experiments.tables import render_runs, render_tables
from ltml_mm.files import write_bytes, write_text

RUNS, TABLE = 'runs.csv', 'table.md'
GROUPS, CLASSES = 'groups.png', 'classes.png'


@dataclass(frozen=True)
class Table:
    """What a report is about.

    Attributes:
        specs: The lines of the table.
        reference: The line that all are compared with.
        pictured: The lines of ``classes.png``, first the one that stands
            out.
    """

    specs: tuple[Spec, ...]
    reference: Spec
    pictured: tuple[Spec, ...]


def parse_table(
    specs: Sequence[str], reference: str, pictured: Sequence[str] = ()
) -> Table:
    """Reads what a report is to be about.

    Args:
        specs: The lines of the table, ``ROW`` or ``ROW+VARIANT``.
        reference: The line that all are compared with; one of ``specs``.
        pictured: Up to three of ``specs`` for ``classes.png``, the method
            that is to stand out first. By default the last line, the
            reference and the first other lines.

    Returns:
        Table: The same, read.

    Raises:
        ValueError: A line has another form, or is not among ``specs``.
    """
    lines = dict.fromkeys(map(parse_spec, specs))
    middle = parse_spec(reference)
    shown = dict.fromkeys(map(parse_spec, pictured))
    for spec in (middle, *shown):
        if spec not in lines:
            raise ValueError(
                f'{spec} is not among the rows of the table: '
                f'{", ".join(map(str, lines))}'
            )
    if len(shown) > comparison_figures.MOST_METHODS:
        raise ValueError(
            f'classes.png shows up to {comparison_figures.MOST_METHODS} rows, '
            f'not {len(shown)}: {", ".join(map(str, shown))}'
        )
    if not shown:
        every = dict.fromkeys([[*lines][-1], middle, *lines])
        shown = dict.fromkeys([*every][: comparison_figures.MOST_METHODS])
    return Table(tuple(lines), middle, tuple(shown))


def write_report(
    out: Path,
    specs: Sequence[str],
    seeds: Sequence[int],
    reference: str,
    title: str = 'Comparison',
    labels: Mapping[str, str] | None = None,
    pictured: Sequence[str] = (),
) -> str:
    """Writes what the finished runs of a comparison reached.

    ``runs.csv`` has a line for each run and prediction, ``table.md`` the
    tables, ``groups.png`` every line of the table by group of classes,
    ``classes.png`` the AP of every class against its training images.
    Without a finished run there are no pictures, and those of an earlier
    report are removed.

    Args:
        out: Folder of the comparison, with ``<row>/seed_<k>/result.json``.
        specs: As for :func:`parse_table`.
        seeds: The seeds that were asked for.
        reference: As for :func:`parse_table`.
        title: Heading of the table and the pictures.
        labels: What to call a line, by its text (``ltml+flip``); the text
            itself where there is none.
        pictured: As for :func:`parse_table`.

    Returns:
        str: The text of ``table.md``.

    Raises:
        ValueError: A line is refused by :func:`parse_table`, or a result by
            :func:`~ltml_mm.experiments.results.read_runs`.
    """
    table = parse_table(specs, reference, pictured)
    names = {str(spec): str(spec) for spec in table.specs} | dict(labels or {})
    runs = read_runs(out, [spec.row for spec in table.specs], seeds)
    text = render_tables(runs, table.specs, table.reference, title, names)
    write_text(out / RUNS, render_runs(runs))
    write_text(out / TABLE, text)
    shown = [spec for spec in table.specs if runs.values(spec)]
    compared = [spec for spec in table.pictured if spec in shown]
    for name in (GROUPS, CLASSES):
        (out / name).unlink(missing_ok=True)
    if shown:
        write_bytes(
            out / GROUPS,
            comparison_figures.groups(
                runs, shown, table.reference, title, names
            ),
        )
    if compared:
        write_bytes(
            out / CLASSES,
            comparison_figures.classes(runs, compared, title, names),
        )
    return text
