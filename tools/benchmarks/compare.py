"""Trains and tests rows of the paper's tables with seeds: see --help."""

from ltml_mm.apis.cli import run_tool
from ltml_mm.experiments.compare import main

if __name__ == '__main__':
    run_tool(main)
