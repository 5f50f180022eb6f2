"""Tells errors of a config from errors of the code that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

#: What stock constructors raise for arguments that do not fit them.
KINDS = (AssertionError, AttributeError, KeyError, TypeError)
#: How MMEngine's Runner begins where a whole section is missing.
NO_LOOP = '`self._'


def explain_config_error(error: Exception) -> str | None:
    """Describes an error that came of building an object from the config.

    A mistyped name or argument ends in MMEngine as a ``KeyError`` or a
    ``TypeError`` of the constructor, deep in a stack that does not matter.

    Args:
        error: The error, as it was caught.

    Returns:
        str | None: One line that names the ``type`` that was being built and
        what it said; None where the error came from elsewhere, and its stack
        does matter.
    """
    if isinstance(error, RuntimeError) and str(error).startswith(NO_LOOP):
        return f'the config is not complete: {_words(error)}'
    if not isinstance(error, KINDS):
        return None
    built = [name for frame in _frames(error) if (name := _built(frame))]
    if not built:
        return None
    return f'the config does not fit {built[-1]}: {_words(error)}'


def _frames(error: Exception) -> Iterator[FrameType]:
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame
        step = step.tb_next


def _built(frame: FrameType) -> str | None:
    """Names what a frame builds from a config, None where it builds none."""
    module = frame.f_globals.get('__name__', '')
    place = module, frame.f_code.co_name
    known = frame.f_locals
    if place == ('mmengine.runner.runner', 'from_cfg'):
        return 'the Runner'
    if module == 'mmengine.runner.runner' and place[1].startswith('build_'):
        return place[1][len('build_') :].replace('_loop', '_cfg')
    if place == ('mmengine.registry.build_functions', 'build_from_cfg'):
        return _type_name(known.get('obj_type') or known.get('cfg'))
    if place == ('mmengine.optim.optimizer.default_constructor', '__call__'):
        return _type_name(known['self'].optimizer_cfg)
    return None


def _type_name(kind: Any) -> str:
    if hasattr(kind, 'get'):
        kind = kind.get('type', f'a part without a type, {dict(kind)}')
    return getattr(kind, '__name__', str(kind))


def _words(error: Exception) -> str:
    argument = str(error.args[0]) if error.args else ''
    if isinstance(error, KeyError):
        if 'registry. Please check' in argument:
            return (
                f'{argument.split(". Please check")[0]}; it is misspelt, or '
                'custom_imports lacks the module that registers it'
            )
        if argument.isidentifier():
            return f'it has no {argument!r}'
    line = ' '.join(argument.split())
    if isinstance(error, RuntimeError):
        return line
    return f'{line or type(error).__name__} (LTML_TRACEBACK=1 shows where)'
