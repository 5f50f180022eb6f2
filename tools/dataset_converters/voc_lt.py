"""Makes VOC-LT from the folder VOCdevkit: see docs/data.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('voc-lt')
