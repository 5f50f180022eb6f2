"""Writes a page about a model: see --help and docs/report.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('model-report')
