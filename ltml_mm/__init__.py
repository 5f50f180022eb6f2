"""Long-tailed multi-label recognition by collaborative training.

Importing the package registers everything it holds into the root registries
of MMEngine, where stock configs find it.
"""

from ltml_mm._stack import find_stack, import_stack

MM_STACK = find_stack()
import_stack(MM_STACK)

from ltml_mm import apis, datasets, engine, evaluation, models  # noqa: E402
from ltml_mm.files import allow_mmengine_checkpoints  # noqa: E402
from ltml_mm.version import __version__  # noqa: E402

allow_mmengine_checkpoints()

__all__ = [
    'MM_STACK', '__version__', 'apis', 'datasets', 'engine', 'evaluation',
    'models',
]  # fmt: skip
