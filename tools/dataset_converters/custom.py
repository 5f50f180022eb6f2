"""Converts one's own data to MMPretrain's JSON: see --help, docs/data.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('convert')
