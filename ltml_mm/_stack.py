"""Finds the installed mm stack and says how to mend one that does not fit.

The OneDL builds and the original OpenMMLab releases provide the same modules
and install into the same folders, so errors of a mixture name neither.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module, metadata

from packaging.specifiers import SpecifierSet

ONEDL = {
    'onedl-mmengine': '>=0.10.12,<0.11',
    'onedl-mmcv': '>=2.3.6,<2.4',
    'onedl-mmpretrain': '>=1.3.6,<1.4',
}
OPENMMLAB = {
    'mmengine': '>=0.10.7,<0.11',
    'mmcv': '>=2.2.0,<2.3',
    'mmpretrain': '>=1.2.0,<1.3',
}
# Distributions that provide the module ``mmcv`` of the original releases.
MMCV_NAMES = ('mmcv', 'mmcv-lite', 'mmcv-full')

# OpenCV's wheels need these, which small containers lack.
SYSTEM_LIBRARIES = 'apt-get install -y libgl1 libglib2.0-0'
INSTALL = {
    'onedl': 'pip install "ltml_mm[onedl]"',
    'openmmlab': 'pip install "ltml_mm[openmmlab]"',
}


def installed_version(name: str) -> str | None:
    """Returns the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def find_stack(
    version_of: Callable[[str], str | None] = installed_version,
) -> str:
    """Names the mm stack that is installed, ``'onedl'`` or ``'openmmlab'``.

    Raises:
        ImportError: No stack, half of one, a mixture of both, or a version
            out of bounds; names what was found and the command that mends it.
    """
    names = (*ONEDL, *OPENMMLAB, *MMCV_NAMES)
    found = {n: v for n in names if (v := version_of(n)) is not None}
    onedl = {n: v for n, v in found.items() if n in ONEDL}
    original = {n: v for n, v in found.items() if n not in ONEDL}
    if not found:
        raise ImportError(
            'ltml_mm needs mmengine, mmcv and mmpretrain; none of them is '
            f'installed. Run: {INSTALL["onedl"]}'
        )
    if onedl and original:
        raise ImportError(
            f'ltml_mm found a mixture of two mm stacks ({_list(found)}), '
            'which overwrite each other. Run: '
            f'pip uninstall -y {" ".join(found)} && {INSTALL["onedl"]}'
        )
    if onedl:
        _check_bounds('onedl', onedl, ONEDL)
        return 'onedl'
    build, *others = [n for n in MMCV_NAMES if n in original] or ['mmcv']
    if others:
        builds = [build, *others]
        raise ImportError(
            f'ltml_mm found several builds of mmcv ({", ".join(builds)}), '
            f'which overwrite each other. Run: pip uninstall -y '
            f'{" ".join(builds)} && {INSTALL["openmmlab"]}'
        )
    bounds = {build if n == 'mmcv' else n: b for n, b in OPENMMLAB.items()}
    _check_bounds('openmmlab', original, bounds)
    return 'openmmlab'


def import_stack(stack: str) -> None:
    """Imports the modules of the stack that :func:`find_stack` found.

    Raises:
        ImportError: A module does not import; keeps the cause and names the
            command that mends it.
    """
    try:
        with _quiet_imports():
            import mmcv  # noqa: F401
            import mmengine  # noqa: F401

            with _without_broken('albumentations'):
                _import_mmpretrain()
                import mmpretrain.datasets  # noqa: F401
    except Exception as error:
        reason = f'{type(error).__name__}: {error}'
        of_system = 'cannot open shared object file' in reason
        mend = SYSTEM_LIBRARIES if of_system else INSTALL[stack]
        raise ImportError(
            f'ltml_mm found the {stack} builds of the mm stack, but they do '
            f'not import ({reason}). Run: {mend}'
        ) from error


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """Keeps back what the stack says of parts that are not used here.

    MMCV warns of a compiled operator, and MMPretrain looks for the client of
    a data service. LTML_VERBOSE=1 shows both.
    """
    if os.environ.get('LTML_VERBOSE'):
        yield
        return
    printed = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(printed):
        warnings.filterwarnings('ignore', 'Fail to import')
        yield
    for line in printed.getvalue().splitlines():
        if line != 'Could not import OneDL':
            print(line)


@contextmanager
def _without_broken(package: str) -> Iterator[None]:
    """Hides a package that MMPretrain needs not, but fails beside broken."""
    try:
        import_module(package)
    except ImportError:
        pass  # MMPretrain goes on without it, too.
    except Exception as error:
        sys.modules[package] = None  # type: ignore[assignment]
        version = installed_version(package)
        warnings.warn(
            f'MMPretrain goes on without {package} {version}, which does '
            f'not import ({type(error).__name__}: {error})',
            stacklevel=2,
        )
    yield
    if sys.modules.get(package, 0) is None:
        del sys.modules[package]


def _import_mmpretrain() -> None:
    """Imports MMPretrain, without its multimodal models where these fail.

    They fail beside versions of transformers that they do not know. The
    first attempt changes nothing, so a stack that loads stays as it is.
    """
    import mmpretrain
    from mmpretrain.utils import dependency

    try:
        import mmpretrain.models
    except Exception as error:
        if not dependency.WITH_MULTIMODAL:
            raise
        _forget_mmpretrain()
        from mmpretrain.utils import dependency

        dependency.WITH_MULTIMODAL = False
        import mmpretrain.models  # noqa: F401

        warnings.warn(
            "MMPretrain's multimodal models are switched off: they do not "
            f'load beside transformers {installed_version("transformers")} '
            f'({type(error).__name__}: {error})',
            stacklevel=2,
        )


def _forget_mmpretrain() -> None:
    """Removes the traces of an import that failed half-way."""
    from mmengine import registry

    for name in [n for n in sys.modules if n.split('.')[0] == 'mmpretrain']:
        del sys.modules[name]
    for table in vars(registry).values():
        if isinstance(table, registry.Registry):
            table.children.pop('mmpretrain', None)


def _check_bounds(
    stack: str, found: Mapping[str, str], bounds: Mapping[str, str]
) -> None:
    problems = [f'{name} is missing' for name in bounds if name not in found]
    problems += [
        f'{name} {version} (needs {bounds[name]})'
        for name, version in found.items()
        if not SpecifierSet(bounds[name]).contains(version, prereleases=True)
    ]
    if problems:
        raise ImportError(
            f'ltml_mm found an mm stack that does not fit ({_list(found)}): '
            f'{"; ".join(problems)}. Run: {INSTALL[stack]}'
        )


def _list(found: Mapping[str, str]) -> str:
    return ', '.join(f'{name} {version}' for name, version in found.items())
