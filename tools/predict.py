"""Predicts the classes of images: see --help and the README."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('predict')
