"""Exports a network for deployment: see --help and docs/deployment.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('export')
