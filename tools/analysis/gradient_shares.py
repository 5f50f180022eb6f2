"""Compares the gradients of the loss terms in a training: see --help."""

from ltml_mm.analysis.gradient_shares import main
from ltml_mm.apis.cli import run_tool

if __name__ == '__main__':
    run_tool(main)
