"""Runs ``python -m ltml_cli``, which is the command ``ltml``."""

from ltml_cli import main

main()
