"""Draws the curves of trainings from their JSON logs: see --help."""

from ltml_mm.apis.cli import run_tool
from ltml_mm.experiments.log_curves import main

if __name__ == '__main__':
    run_tool(main)
