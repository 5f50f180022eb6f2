"""Makes COCO-LT from the folder of COCO: see docs/data.md."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('coco-lt')
