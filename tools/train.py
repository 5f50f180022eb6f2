"""Trains a model: see --help and the README."""

from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.train import main

if __name__ == '__main__':
    run_tool(main)
