"""Draws the curves of trainings from their JSON logs: see --help."""

from ltml_mm.analysis.log_curves import main
from ltml_mm.apis.cli import run_tool

if __name__ == '__main__':
    run_tool(main)
