"""Trains a config: see --help and the README."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('train')
