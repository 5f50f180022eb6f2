"""What users rely on by name, and every resolved config.

The two JSON files beside this one are the record. After a deliberate change
``LTML_UPDATE_SURFACE=1 python -m pytest tests/test_public_surface.py`` writes
them anew; each line of their diff is one change of the surface.
"""

import importlib
import inspect
import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from mmengine import registry
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

import ltml_mm  # noqa: F401
from ltml_mm.models.parts import FORK_DEFAULTS

ROOT = Path(__file__).parents[1]
SURFACE = Path(__file__).with_name('public_surface.json')
CONFIGS = Path(__file__).with_name('resolved_configs.json')
UPDATE = bool(os.environ.get('LTML_UPDATE_SURFACE'))
#: The other configs are recorded by their differences from this one.
REFERENCE = 'ltml_voc.py'
#: What the Runner, the tools of MMPretrain and ours read of a config.
READ = (
    *list(inspect.signature(Runner.__init__).parameters)[1:],
    *('allow_outside', 'augment_on', 'auto_scale_lr', 'data_prefix'),
    *('data_root', 'find_unused_parameters', 'image_cache', 'runner_type'),
    *('model_wrapper_cfg', 'sync_bn', 'tta_model'),
)
#: Benchmarks are for developers: their paths are pinned, their flags are not.
FREE_FLAGS = 'tools/benchmarks'
FACES = ('apis', 'datasets', 'engine', 'evaluation', 'models')
DOCUMENTS = ('README.md', 'CONTRIBUTING.md', 'docs/*.md')


def compare(path, found):
    """Compares with the record, entry by entry, or writes it."""
    if UPDATE:
        text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
        path.write_text(text + '\n', encoding='utf-8')
    recorded = json.loads(path.read_text(encoding='utf-8'))
    assert set(found) == set(recorded)
    for name in found:
        assert found[name] == recorded[name], name


def registered():
    """The package's names and constructor arguments in each registry."""
    names = {}
    for table in vars(registry).values():
        if not isinstance(table, registry.Registry):
            continue
        for name, module in table.module_dict.items():
            if module.__module__.startswith('ltml_mm'):
                arguments = list(inspect.signature(module).parameters)
                names[f'{table.name}: {name}'] = ' '.join(arguments)
    return names


def help_of(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', list(arguments))
    monkeypatch.setenv('COLUMNS', '200')
    with pytest.raises(SystemExit) as end:
        runpy.run_path(arguments[0], run_name='__main__')
    assert end.value.code in (0, None)
    return capsys.readouterr().out


def flags(path, monkeypatch, capsys):
    """The positional arguments and flags of a tool."""
    text = help_of([path, '--help'], monkeypatch, capsys)
    found = set(re.findall(r'(?<![\w-])--[a-z][a-z_-]*', text))
    usage = text.split('\n\n')[0].removeprefix('usage:')
    while '[' in usage:  # options, some within others
        usage = re.sub(r'\[[^][]*\]', ' ', usage)
    return ' '.join([*usage.split()[1:], *sorted(found)])


def documented(pattern):
    """What the documents name by a pattern."""
    texts = (
        path.read_text(encoding='utf-8')
        for glob in DOCUMENTS
        for path in ROOT.glob(glob)
    )
    return {name for text in texts for name in re.findall(pattern, text)}


def test_names_and_flags(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    tools = sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'tools').rglob('*')
        if path.suffix in ('.py', '.sh')
    )
    surface = {
        'registered': registered(),
        'faces': {
            face: importlib.import_module(f'ltml_mm.{face}').__all__
            for face in FACES
        },
        'tools': tools,
        'flags': {},
    }
    for path in tools:
        pinned = path.endswith('.py') and not path.startswith(FREE_FLAGS)
        if pinned or path == 'tools/benchmarks/compare.py':
            surface['flags'][path] = flags(path, monkeypatch, capsys)
    compare(SURFACE, surface)


@pytest.mark.parametrize(
    'name',
    sorted(
        documented(r'(?<![\w/])(?:tools|configs)/[\w/]+\.(?:py|sh)')
        | {
            f'configs/{name}'
            for name in documented(
                r'(?<![\w/])(?:baselines|ablations)/\w+\.py'
            )
        }
    ),
)
def test_documented_paths_exist(name):
    assert (ROOT / name).is_file()


def flat(value, prefix=''):
    """A tree as {path: scalar or list of scalars}."""
    if isinstance(value, (list, tuple)):
        if not any(isinstance(item, (dict, list, tuple)) for item in value):
            return {prefix: list(value)}
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: value}
    if not value:
        return {prefix: {}}
    return {
        path: leaf
        for key, item in value.items()
        for path, leaf in flat(
            item, f'{prefix}.{key}' if prefix else str(key)
        ).items()
    }


def resolved(path):
    cfg = Config.fromfile(path, import_custom_modules=False)
    tree = {key: cfg[key] for key in READ if key in cfg}
    # As a config on disk: tuples are lists there.
    return json.loads(json.dumps(flat(tree)))


def test_resolved_configs():
    """The whole reference, and of the others what differs from it."""
    folder = ROOT / 'configs'
    reference = resolved(folder / REFERENCE)
    found = {REFERENCE: reference}
    for path in sorted(folder.rglob('*.py')):
        name = path.relative_to(folder).as_posix()
        if name == REFERENCE or '_base_' in path.parts:
            continue
        own = resolved(path)
        found[name] = {
            'has': {
                key: value
                for key, value in own.items()
                if key not in reference or reference[key] != value
            },
            'lacks': sorted(set(reference) - set(own)),
        }
    compare(CONFIGS, found)


@pytest.mark.parametrize(
    'option', sorted(documented(r'`((?:model|optim_wrapper)\.[\w.]+)`'))
)
def test_documented_options_are_taken(option):
    """Each has a place: an argument of the registered type it belongs to."""
    owners = {
        'model': 'CollaborativeTwoBranchClassifier',
        'loss_cls': 'LogitCompensatedBCELoss',
        'loss_consistency': 'CrossBranchConsistencyLoss',
        'optim_wrapper': 'GuardedOptimWrapper',
        'head': 'MultiLabelLinearClsHead',
        'optimizer': 'SGD',
    }
    *path, argument = option.split('.')
    if path[-1] == 'fork':  # a dict of the model, not a type
        assert argument in FORK_DEFAULTS
        return
    taken = set()
    for table in (MODELS, registry.OPTIM_WRAPPERS, registry.OPTIMIZERS):
        if (module := table.get(owners[path[-1]])) is not None:
            for base in module.__mro__:
                taken |= set(inspect.signature(base.__init__).parameters)
            taken |= set(getattr(module, 'FORMER_OPTIONS', ()))
    assert argument in taken
