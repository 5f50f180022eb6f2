"""Trains and tests rows of the paper's tables with seeds: see --help."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('compare')
