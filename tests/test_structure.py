"""The bounds that keep the package small enough to hold in the head."""

import ast
import gc
import inspect
import sys
from collections import Counter
from pathlib import Path

import pytest
from mmengine import registry

import ltml_cli
import ltml_mm
from ltml_mm.apis import train

PACKAGE = Path(ltml_mm.__file__).parent
MODULES = [
    *PACKAGE.rglob('*.py'),
    *Path(ltml_cli.__file__).parent.rglob('*.py'),
]
CONFIGS = Path(__file__).parents[1] / 'configs'
LEAVES = sorted(
    path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts
)


def lines(paths):
    return sum(len(path.read_text('utf-8').splitlines()) for path in paths)


#: Folders of tools around training and evaluating: each may grow by itself.
AROUND = ('converters', 'decisions', 'experiments', 'export', 'inspection')


def test_size():
    core = [
        path
        for path in PACKAGE.rglob('*.py')
        if not set(AROUND) & set(path.parts)
    ]
    # All that trains, evaluates and predicts.
    assert lines(core) <= 13_350
    assert len(core) <= 75
    assert lines(MODULES) <= 23_700
    assert len(MODULES) <= 126
    assert lines(Path(__file__).parent.rglob('*.py')) <= 24_400


def test_every_module_has_a_name_of_its_own():
    names = Counter(path.stem for path in MODULES)
    del names['__init__']
    assert [name for name, count in names.items() if count > 1] == []


def constructors():
    """The package's classes in the registries."""
    for table in vars(registry).values():
        if isinstance(table, registry.Registry):
            for module in table.module_dict.values():
                if module.__module__.startswith('ltml_mm'):
                    yield module


@pytest.mark.parametrize('module', constructors(), ids=lambda m: m.__name__)
def test_a_constructor_takes_at_most_eight_arguments(module):
    assert len(inspect.signature(module).parameters) <= 8


def bases(path):
    """The files named in a config's ``_base_``."""
    for node in ast.parse(path.read_text('utf-8')).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            named = ast.literal_eval(node.value)
            names = [named] if isinstance(named, str) else named
            return [(path.parent / name).resolve() for name in names]
    return []


def depth(path):
    return max((1 + depth(base) for base in bases(path)), default=0)


def sources(path):
    """The files that a config is read from, besides itself."""
    return {file for base in bases(path) for file in (base, *sources(base))}


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_a_config_is_flat(path):
    assert depth(path) <= 2
    # No config is made out of another one.
    assert all('_base_' in base.parts for base in sources(path))


def test_every_base_is_read():
    read = {*LEAVES}.union(*map(sources, LEAVES))
    assert read == {*CONFIGS.rglob('*.py')}


def test_no_config_deletes_what_it_inherits():
    assert [
        path
        for path in CONFIGS.rglob('*.py')
        if '_delete_' in path.read_text('utf-8')
    ] == []


def test_a_training_visits_few_files(tmp_path, quick):
    """Files with a function that one training of the demo calls."""
    visited = set()
    # Held, so that nothing of an earlier test ends meanwhile.
    held = gc.get_objects()

    def visit(frame, event, argument):
        name = frame.f_code.co_filename
        own = name.startswith(str(PACKAGE)) and frame.f_code.co_name[0] != '<'
        # At its end a training hands over to the tools around it.
        if own and not set(AROUND) & set(Path(name).parts):
            visited.add(name)

    command = [
        *(str(CONFIGS / 'ltml_demo.py'), f'--work-dir={tmp_path}'),
        *('--cfg-options', 'train_cfg.max_epochs=1'),
        *(f'{name}_dataloader.num_workers=0' for name in ('train', 'val')),
        'train_dataloader.sampler.epoch_length=64',
        'val_dataloader.dataset.indices=20',
    ]
    sys.setprofile(visit)
    try:
        train.main(command)
    finally:
        sys.setprofile(None)
        del held
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert len(visited) <= 39, sorted(visited)
