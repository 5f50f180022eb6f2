"""Merges two branches into a stock classifier: see docs/deployment.md."""

from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.merge import main

if __name__ == '__main__':
    run_tool(main)
