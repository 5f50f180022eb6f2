"""Weights as safetensors, for every tool, and the card beside them."""

import json
import struct

import numpy as np
import pytest
import torch
import yaml
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file
from test_selection import VALIDATION, add_set
from tiny_training import LABELS, extend, write_small

from ltml_mm.apis import MultiLabelInferencer, merge, predict, train
from ltml_mm.apis import test as testing
from ltml_mm.apis.checkpoint import CheckpointError, read_checkpoint
from ltml_mm.decisions import selection
from ltml_mm.decisions.model_card import main
from ltml_mm.decisions.thresholds import read_thresholds, weights_digest

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, quick):
    """A training whose weights are safetensors, too, and its test."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_small(folder)
    add_set(folder / 'data', 'val.json', VALIDATION, 'v')
    add_set(folder / 'data', 'test.json', LABELS, 't')
    train.main([str(config), '--safetensors'])
    work = folder / 'work'
    testing.main([str(config), f'{work}/epoch_1.pth', '--work-dir', str(work)])
    return folder


def files(folder, suffix='safetensors'):
    return str(folder / 'tiny.py'), str(folder / f'work/epoch_1.{suffix}')


def header(path):
    """The header as the format's definition has it, without a library."""
    content = path.read_bytes()
    (length,) = struct.unpack('<Q', content[:8])
    return json.loads(content[8 : 8 + length])


def test_the_header_holds_what_a_model_needs(trained):
    path = trained / 'work' / 'epoch_1.safetensors'
    pickled = read_checkpoint(path.with_suffix('.pth'))
    found = header(path)
    meta = json.loads(found['__metadata__']['ltml_mm'])
    assert meta['dataset_meta']['classes'] == ['common', 'medium', 'rare']
    assert meta['dataset_meta']['class_counts'] == [7, 4, 1]
    assert meta['dataset_meta']['num_train_images'] == 10
    assert meta['groups'] == ['tail', 'tail', 'tail']
    assert meta['epoch'] == 1
    state = read_checkpoint(path)['state_dict']
    assert set(state) == set(load_file(path)) == set(found) - {'__metadata__'}
    for name, value in pickled['state_dict'].items():
        assert torch.equal(state[name], value), name
    assert weights_digest(state) == weights_digest(pickled['state_dict'])


def test_every_tool_reads_it(trained, tmp_path, capsys):
    config, weights = files(trained)
    pickled = files(trained, 'pth')
    image = str(trained / 'data' / 't' / '0.png')
    for name, given in (('a', (config, weights)), ('b', pickled)):
        predict.main([*given, image, '--out', str(tmp_path / name)])
        testing.main(
            [
                *given,
                '--out',
                str(tmp_path / f'{name}.json'),
                '--work-dir',
                str(tmp_path / 'w'),
            ]
        )
        merge.main([*given, str(tmp_path / name / 'm.pth'), '--safetensors'])
        selection.main([*given, '--out', str(tmp_path / name / 't.json')])
    capsys.readouterr()
    results = [
        json.loads((tmp_path / f'{name}.json').read_text()) for name in 'ab'
    ]
    assert results[0]['metrics'] == results[1]['metrics']
    # The thresholds of the training are those of both.
    assert 'decisions' in results[0]
    predictions = [
        json.loads((tmp_path / name / 'predictions.json').read_text())
        for name in 'ab'
    ]
    assert predictions[0]['predictions'] == predictions[1]['predictions']
    merged = [read_checkpoint(tmp_path / n / 'm.pth') for n in 'ab']
    shared = read_checkpoint(tmp_path / 'a' / 'm.safetensors')
    digests = {weights_digest(c['state_dict']) for c in (*merged, shared)}
    assert len(digests) == 1
    assert 'Merged from' in (tmp_path / 'a' / 'm.md').read_text()
    pair = [str(tmp_path / 'a' / f'm.{s}') for s in ('py', 'safetensors')]
    assert MultiLabelInferencer(*pair, 'cpu')(image)[0]['scores']
    chosen = [read_thresholds(tmp_path / n / 't.json') for n in 'ab']
    np.testing.assert_array_equal(chosen[0].values, chosen[1].values)


def test_a_training_starts_from_it_and_resumes_none(trained, tmp_path):
    config, weights = files(trained)
    changed = extend(
        trained / 'tiny.py',
        f'load_from = {weights!r}\nwork_dir = {str(tmp_path)!r}\n'
        'optim_wrapper = dict(optimizer=dict(lr=0.0))\n'
        "experiment_name = 'from_safetensors'",
    )
    train.main([str(changed)])
    before = load_file(weights)['heads.uniform.fc.weight']
    after = read_checkpoint(tmp_path / 'epoch_1.pth')['state_dict']
    assert torch.equal(before, after['heads.uniform.fc.weight'])
    with pytest.raises(ValueError, match='load_from='):
        train.main([config, '--resume', weights])


def test_weights_of_others_are_read(tmp_path):
    """Without our header, through ``init_cfg`` as MMEngine loads them."""
    path = tmp_path / 'others.safetensors'
    weight = torch.rand(4, 3, 3, 3)
    save_file({'weight': weight}, path)
    assert read_checkpoint(path)['meta'] == {}
    layer = MODELS.build(
        dict(
            type='Conv2dModule',
            init_cfg=dict(type='Pretrained', checkpoint=str(path)),
        )
    )
    layer.init_weights()
    assert torch.equal(layer.weight.data, weight)


@MODELS.register_module(force=True)
class Conv2dModule(BaseModule):
    def __init__(self, init_cfg):
        super().__init__(init_cfg)
        self.weight = torch.nn.Parameter(torch.zeros(4, 3, 3, 3))


@pytest.mark.parametrize('cut', [4, 100, -10])
def test_damage_is_named(trained, tmp_path, cut):
    content = (trained / 'work' / 'epoch_1.safetensors').read_bytes()
    path = tmp_path / 'cut.safetensors'
    path.write_bytes(content[:cut])
    with pytest.raises(CheckpointError, match=r'cut\.safetensors'):
        read_checkpoint(path)


def test_checksum_is_beside(trained):
    assert (trained / 'work' / 'epoch_1.safetensors.sha256').is_file()


def test_the_card_tells_of_the_run(trained, tmp_path):
    config, checkpoint = files(trained, 'pth')
    main([config, checkpoint, str(tmp_path / 'hub'), '--license', 'CC-BY: 4'])
    found = sorted(p.name for p in (tmp_path / 'hub').iterdir())
    assert found == [
        'README.md',
        'config.py',
        'model.safetensors',
        'model.safetensors.sha256',
        'thresholds.json',
    ]
    text = (tmp_path / 'hub' / 'README.md').read_text()
    _, front, body = text.split('---\n', 2)
    assert yaml.safe_load(front)['license'] == 'CC-BY: 4'
    report = json.loads(
        (trained / 'work' / 'test_class_report.json').read_text()
    )
    assert f'{report["summary"]["mAP"]:.2f}' in body
    assert 'test_class_report.json' in body
    assert '10 images of LongTailMultiLabelDataset (train.json)' in body
    assert '| rare ' in body
    assert 'Chosen for f1' in body
    digest = read_thresholds(tmp_path / 'hub' / 'thresholds.json').model
    assert digest['sha256'] in body
    # What is there works by itself, thresholds with it.
    image = str(trained / 'data' / 't' / '0.png')
    pair = [str(tmp_path / 'hub' / n) for n in found[1:3]]
    inferencer = MultiLabelInferencer(*pair, 'cpu')
    assert inferencer.thresholds is not None
    assert inferencer(image)[0]['scores']


def test_figures_of_another_model_are_refused(trained, tmp_path):
    config, checkpoint = files(trained, 'pth')
    report = json.loads(
        (trained / 'work' / 'test_class_report.json').read_text()
    )
    report['model'] = '0' * 64
    (tmp_path / 'r.json').write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r'r\.json has no figures of'):
        main(
            [
                config,
                checkpoint,
                str(tmp_path / 'x.safetensors'),
                '--results',
                str(tmp_path / 'r.json'),
            ]
        )
