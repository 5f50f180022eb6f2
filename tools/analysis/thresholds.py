"""Chooses one threshold a class: see --help and docs/decisions.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('thresholds')
