"""Draws the pictures of docs/results.md from the CSVs beside this file.

Example:
    python docs/results/draw_tables.py docs/images
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from ltml_mm.experiments.comparison_report import draw_groups
from ltml_mm.experiments.drawing import new_figure, png
from ltml_mm.experiments.results import GROUPS, Results
from ltml_mm.experiments.rows import Line, parse_line
from ltml_mm.files import write_bytes

FOLDER = Path(__file__).parent
#: The lines of both pictures of the tables, and of that of photos.csv.
LINES = (
    *('erm', 'rs', 'asl', 'uniform_branch', 'rebalanced_branch'),
    *('two_branches', 'consistency', 'ltml', 'ltml+merged', 'ltml+merged_bn'),
    *('db_focal', 'focal', 'ldam', 'cb_focal', 'rw'),
)
PHOTOS_LINES = (*LINES, 'two_branches+merged', 'ltml_plus+merged')
#: The rows that were searched at several rates.
RATES = (*LINES[:6], 'ltml')


def main(out: Path) -> None:
    """Draws all pictures into a folder."""
    for name, texts, about in (
        ('coco80', LINES, '1889 COCO photographs, 80 classes'),
        ('photos', PHOTOS_LINES, '626 photographs of VOC2012, 12 classes'),
    ):
        lines = [parse_line(text) for text in texts]
        about += ', each row at its own rate'
        results = read_results(name, f'{name}_lt')
        content = png(draw_groups, results, lines, lines[0], about)
        write_bytes(out / f'{name}_groups.png', content)
    write_bytes(out / 'rates.png', png(draw_rates))


def read_results(name: str, images: str) -> Results:
    """Reads a CSV that ``compare.py`` wrote."""
    found: dict[tuple, dict] = {}
    with (FOLDER / f'{name}.csv').open(encoding='utf-8') as file:
        for entry in csv.DictReader(file):
            run = entry['row'], int(entry['seed'])
            facts = {'row': run[0], 'seed': run[1], 'set': images}
            result = found.setdefault(run, {**facts, 'metrics': {}})
            result['metrics'][entry['variant']] = {
                key: float(entry[group]) for group, key in GROUPS.items()
            }
    return Results([*found.values()], [])


def draw_rates() -> Figure:
    """Draws the total mAP of the rows over the learning rate."""
    curves: dict[str, dict[float, float]] = defaultdict(dict)
    for result in read_results('coco80_rates', 'coco80_lt').found:
        row, _, rate = result['row'].partition('-lr')
        place = float(rate.replace('_', '.') or 0.01)
        curves[row][place] = result['metrics']['fused']['mAP']
    figure = new_figure(
        7,
        4,
        'Total mAP by learning rate',
        '1889 COCO photographs, 80 classes; on 1800 others, seed 0',
    )
    axes = figure.subplots()
    for row in RATES:
        places = sorted(curves[row])
        values = [curves[row][place] for place in places]
        axes.plot(places, values, marker='o', ms=4, label=Line(row).label)
    axes.set_xscale('log')
    ticks = [0.01, 0.03, 0.1, 0.2]
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel('learning rate')
    axes.set_ylabel('mAP in %')
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == '__main__':
    main(Path(sys.argv[1]))
