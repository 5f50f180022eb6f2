"""Writes weights as safetensors, and a model card: see --help."""

from ltml_cli import run_script

if __name__ == '__main__':
    run_script('to-safetensors')
