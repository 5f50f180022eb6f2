"""Which mm stacks are accepted, and what is said of the others."""

import os
import re
import subprocess
import sys

import pytest
import torch

from ltml_mm._stack import find_stack, import_stack

ONEDL = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmpretrain': '1.3.6',
}
ORIGINAL = {'mmengine': '0.10.7', 'mmcv-lite': '2.2.0', 'mmpretrain': '1.2.0'}
MMCV = {k: v for k, v in ORIGINAL.items() if k != 'mmcv-lite'}

INSTALL_ONEDL = 'Run: pip install "ltml_mm[onedl]"'
INSTALL_ORIGINAL = 'Run: pip install "ltml_mm[openmmlab]"'


def message(found):
    with pytest.raises(ImportError) as caught:
        find_stack(found.get)
    return str(caught.value)


def test_the_installed_stack_is_found():
    assert find_stack() in ('onedl', 'openmmlab')


@pytest.mark.parametrize(
    ('found', 'stack'),
    [
        (ONEDL, 'onedl'),
        (ORIGINAL, 'openmmlab'),
        ({**MMCV, 'mmcv': '2.2.0'}, 'openmmlab'),
        ({**MMCV, 'mmcv-full': '2.2.0'}, 'openmmlab'),
        ({**ONEDL, 'onedl-mmcv': '2.3.7.post1', 'numpy': '2'}, 'onedl'),
    ],
)
def test_complete_stacks(found, stack):
    assert find_stack(found.get) == stack


def test_none():
    text = message({'torch': '2.11.0'})
    assert 'none of them is installed' in text
    assert text.endswith(INSTALL_ONEDL)


@pytest.mark.parametrize('name', [*ONEDL, *ORIGINAL])
def test_half_of_a_stack(name):
    stack = ONEDL if name in ONEDL else ORIGINAL
    found = {k: v for k, v in stack.items() if k != name}
    text = message(found)
    assert f': {name.removesuffix("-lite")} is missing.' in text
    assert all(f'{k} {v}' in text for k, v in found.items())
    assert text.endswith(INSTALL_ONEDL if name in ONEDL else INSTALL_ORIGINAL)


def test_mixture():
    found = {**ONEDL, 'mmcv-lite': '2.2.0', 'mmengine': '0.10.7'}
    text = message(found)
    assert 'mixture' in text
    assert all(f'{k} {v}' in text for k, v in found.items())
    uninstall, install = text.split('Run: ')[1].split(' && ')
    assert uninstall.startswith('pip uninstall -y ')
    assert set(uninstall.split()[3:]) == set(found)
    assert f'Run: {install}' == INSTALL_ONEDL


def test_two_builds_of_mmcv():
    text = message({**ORIGINAL, 'mmcv': '2.2.0'})
    assert 'several builds of mmcv (mmcv, mmcv-lite)' in text
    assert 'pip uninstall -y mmcv mmcv-lite && pip install' in text
    assert INSTALL_ORIGINAL.removeprefix('Run: ') in text


@pytest.mark.parametrize(
    ('stack', 'name', 'version'),
    [
        (ONEDL, 'onedl-mmengine', '0.10.11'),
        (ONEDL, 'onedl-mmcv', '2.4.0'),
        (ORIGINAL, 'mmpretrain', '1.1.1'),
        (ORIGINAL, 'mmcv-lite', '2.1.0'),
    ],
)
def test_out_of_bounds(stack, name, version):
    text = message({**stack, name: version})
    # As pip knows it: a user with mmcv-lite has no mmcv to look at.
    assert f'{name} {version} (needs >=' in text
    assert text.count('(needs') == 1
    assert text.endswith(INSTALL_ONEDL if 'one' in name else INSTALL_ORIGINAL)


def test_an_import_that_fails_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    with pytest.raises(ImportError, match=r'do not import .*mmpretrain'):
        import_stack('openmmlab')


def test_a_library_that_the_machine_lacks_is_explained(monkeypatch):
    reason = 'libGL.so.1: cannot open shared object file: No such file'

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == 'mmcv':
                raise ImportError(reason)

    monkeypatch.delitem(sys.modules, 'mmcv', raising=False)
    monkeypatch.setattr(sys, 'meta_path', [Finder, *sys.meta_path])
    with pytest.raises(ImportError, match=r'libGL.*apt-get install') as error:
        import_stack('onedl')
    assert 'pip' not in str(error.value)


BROKEN = {
    # MMPretrain takes a package of this name for the models' own.
    'transformers': ('', 'multimodal models are switched off'),
    'albumentations': ('{}[0]', 'goes on without albumentations'),
}


def test_packages_that_do_not_load_are_switched_off(tmp_path):
    for name, (content, _) in BROKEN.items():
        info = tmp_path / f'{name}-99.0.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: 99.0\n')
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text(content)
    code = (
        'import sys, ltml_mm\n'
        'from mmpretrain.models import ResNet\n'
        'from mmpretrain.registry import MODELS, TRANSFORMS\n'
        'assert MODELS.get("ResNet") is ResNet\n'
        'assert MODELS.get("CollaborativeTwoBranchClassifier")\n'
        'assert TRANSFORMS.get("Albumentations")\n'
        'assert "albumentations" not in sys.modules\n'
        'MODELS.build(dict(type="BlipCaption"))\n'
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )
    for _, words in BROKEN.values():
        assert len(re.findall(rf'{words}.* 99.0.*\(\w+', done.stderr)) == 1
    assert 'requires extra multi-modal dependencies' in done.stderr


def test_no_gpu_is_seen():
    """Whatever the machine has: CPU promises are tested on CPUs."""
    assert not torch.cuda.is_available()
