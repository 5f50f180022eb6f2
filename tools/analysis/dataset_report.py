"""Reports on a training set: see --help and docs/data.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('dataset-report')
