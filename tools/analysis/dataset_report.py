"""Reports on a training set: see --help and docs/data.md."""

from ltml_mm.apis.cli import run_tool
from ltml_mm.experiments.dataset_report import main

if __name__ == '__main__':
    run_tool(main)
