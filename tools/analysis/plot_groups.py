"""Compares evaluations by group of classes: see --help."""

from ltml_mm.analysis.group_bars import main
from ltml_mm.apis.launch import run_tool

if __name__ == '__main__':
    run_tool(main)
