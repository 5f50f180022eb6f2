"""Draws the curves of trainings from their JSON logs: see --help."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('plot-log')
