"""Draws the network of LTML for the README.

Example:
    python docs/images/draw_network.py docs/images/network.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

# Okabe and Ito's palette, safe for colour-blind readers.
UNIFORM, REBALANCED, SHARED = '#0072B2', '#D55E00', '#595959'
TINT = {UNIFORM: '#E3EFF7', REBALANCED: '#FBEBE0', SHARED: '#EEEEEE'}


def box(
    ax: Axes, x: float, y: float, w: float, h: float, text: str, colour: str
) -> None:
    """Draws a labelled box, its lower left corner at (x, y)."""
    ax.add_patch(
        FancyBboxPatch(
            (x, y),
            w,
            h,
            boxstyle='round,pad=0,rounding_size=0.12',
            facecolor=TINT[colour],
            edgecolor=colour,
            linewidth=1.6,
        )
    )
    ax.text(x + w / 2, y + h / 2, text, ha='center', va='center', fontsize=11)


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    style: str = '-|>',
) -> None:
    """Draws an arrow between two points."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=13,
            color=colour,
            linewidth=1.6,
            shrinkA=0,
            shrinkB=0,
        )
    )


def both(ax: Axes, x0: float, x1: float, y0: float, y1: float) -> None:
    """Draws the arrows of both streams side by side."""
    for offset, colour in ((0.1, UNIFORM), (-0.1, REBALANCED)):
        arrow(ax, (x0, y0 + offset), (x1, y1 + offset), colour)


def draw(ax: Axes) -> None:
    """Draws the whole network."""
    up, low, middle = 4.1, 1.3, 2.7
    box(ax, 0, up - 0.5, 2.4, 1, 'uniform\nsampling', UNIFORM)
    box(ax, 0, low - 0.5, 2.4, 1, 'class-aware\nsampling', REBALANCED)
    box(ax, 3.5, middle - 0.8, 2.0, 1.6, 'trunk $\\phi$\n(shared)', SHARED)
    arrow(ax, (2.4, up), (3.5, middle + 0.45), UNIFORM)
    arrow(ax, (2.4, low), (3.5, middle - 0.45), REBALANCED)
    ax.text(2.85, up - 0.15, '$x^u$', color=UNIFORM, fontsize=13)
    ax.text(2.85, low - 0.15, '$x^r$', color=REBALANCED, fontsize=13)
    for y, name, colour, mark in (
        (up, 'uniform', UNIFORM, 'f'),
        (low, 're-balanced', REBALANCED, 'g'),
    ):
        box(ax, 6.7, y - 0.55, 2.4, 1.1, f'last stage ${mark}_1$', colour)
        box(ax, 9.8, y - 0.55, 1.7, 1.1, f'head ${mark}_2$', colour)
        ax.text(
            9.1,
            y + (0.78 if y == up else -0.78),
            f'{name} branch',
            ha='center',
            va='center',
            color=colour,
            fontsize=11,
        )
        side = 0.35 if y == up else -0.35
        both(ax, 5.5, 6.7, middle + side, y)
        both(ax, 9.1, 9.8, y, y)
    both(ax, 11.5, 12.3, up, up)
    both(ax, 11.5, 12.3, low, low)
    labels = (
        (up + 0.2, '$u$', UNIFORM),
        (up - 0.2, r'$\hat r$', REBALANCED),
        (low + 0.2, r'$\hat u$', UNIFORM),
        (low - 0.2, '$r$', REBALANCED),
    )
    for y, text, colour in labels:
        ax.text(12.45, y, text, color=colour, fontsize=14, va='center')
    box(ax, 13.6, up - 0.4, 3.7, 0.8, r'$L_{cls}(u,\,y^u)$', UNIFORM)
    box(ax, 13.6, low - 0.4, 3.7, 0.8, r'$L_{cls}(r,\,y^r)$', REBALANCED)
    consistency = r'$\lambda\,[L_{con}(u,\hat u) + L_{con}(r,\hat r)]$'
    box(ax, 13.6, middle - 0.4, 3.7, 0.8, consistency, SHARED)
    arrow(ax, (12.85, up + 0.2), (13.6, up + 0.05), UNIFORM)
    arrow(ax, (12.85, low - 0.2), (13.6, low - 0.05), REBALANCED)
    for y, end in ((up, middle + 0.2), (low, middle - 0.2)):
        arrow(ax, (12.85, y + (-0.3 if y == up else 0.3)), (13.6, end), SHARED)


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    args = parser.parse_args()
    figure, ax = plt.subplots(figsize=(12.6, 3.9))
    draw(ax)
    ax.set_xlim(-0.2, 17.5)
    ax.set_ylim(0.25, 5.15)
    ax.set_aspect('equal')
    ax.axis('off')
    figure.tight_layout(pad=0.2)
    figure.savefig(args.out, dpi=130)


if __name__ == '__main__':
    main()
