"""Chooses one threshold a class: see --help and docs/decisions.md."""

from ltml_mm.apis.cli import run_tool
from ltml_mm.decisions.selection import main

if __name__ == '__main__':
    run_tool(main)
