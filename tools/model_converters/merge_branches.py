"""Merges two branches into a stock classifier: see docs/deployment.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('merge')
