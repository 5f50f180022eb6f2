"""Reports on a training set: see --help and docs/data.md."""

from ltml_mm.analysis.dataset_report import main
from ltml_mm.apis.cli import run_tool

if __name__ == '__main__':
    run_tool(main)
