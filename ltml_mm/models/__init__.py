"""Models and losses."""

from . import losses

__all__ = ['losses']
