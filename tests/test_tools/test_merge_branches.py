"""From a two-branch checkpoint to MMPretrain's own tools."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_training
import torch
from mmengine.dataset import default_collate
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.utils import dependency

from ltml_mm.apis import merge as merge_module
from ltml_mm.apis.checkpoint import CheckpointError, read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.apis.merge import main, merge_checkpoint, training_batches
from ltml_mm.apis.model import build_model
from ltml_mm.apis.test import main as evaluate
from ltml_mm.decisions.scores import build_loader
from ltml_mm.export import quantization
from ltml_mm.files import AtomicFileBackend
from ltml_mm.models.weight_averaging import DRIFT_LIMIT, merge_branches

META = dict(
    classes=list(tiny_training.CLASSES),
    class_counts=[120, 50, 3],
    num_train_images=130,
)
CONFIG = """
model = dict(
    backbone=dict(
        frozen_stages=1,
        init_cfg=dict(
            _delete_=True, type='Pretrained', checkpoint='missing.pth')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MultiLabelLinearClsHead', in_channels=32))
test_dataloader = dict(batch_size=4)
"""
# MMPretrain's own evaluation and inference, in a process without the plugin;
# beside transformers 5, too, where MMPretrain alone does not import.
STOCK = f"""
import json, sys
from mmpretrain.utils import dependency
dependency.WITH_MULTIMODAL = {dependency.WITH_MULTIMODAL}
from mmengine.config import Config
from mmengine.runner import Runner
cfg = Config.fromfile('merged.py')
cfg.update(work_dir='stock', load_from='merged.pth')
metrics = Runner.from_cfg(cfg).test()
from mmpretrain import ImageClassificationInferencer
infer = ImageClassificationInferencer('merged.py', pretrained='merged.pth')
(result,) = infer('data/2.png')
assert 'ltml_mm' not in sys.modules
result = dict(scores=result['pred_scores'].tolist(), name=result['pred_class'])
json.dump(dict(metrics=metrics, **result), open('stock.json', 'w'))
"""


def save(name='epoch_1.pth', noise=0.0, change=None):
    """A checkpoint whose copies are equal but for noise; the model too."""
    torch.manual_seed(0)
    model = build_model(load_config('config.py', dataset_meta=META))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model.backbone.layer4.sync()
    with torch.no_grad():
        for head in model.heads.values():
            next(head.parameters()).normal_(std=0.3)
        for weight in model.backbone.layer4.copies[0].parameters():
            weight.add_(torch.randn_like(weight), alpha=noise)
    content = {
        'state_dict': model.state_dict(),
        'meta': {'dataset_meta': META},
    }
    if change:
        change(content)
    torch.save(content, name)
    return model.eval()


@pytest.fixture
def folder(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    small = tiny_training.write_small(tmp_path)
    tiny_training.write_data(small.parent / 'data', tiny_training.LABELS[:7])
    tiny_training.extend(small, CONFIG, 'config.py')
    return tmp_path


def merge(*flags):
    main(['config.py', 'epoch_1.pth', 'merged.pth', *flags])


def normalised_images(model):
    """The test set, normalised."""
    cfg = load_config('config.py', dataset_meta=META)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    return model.data_preprocessor(default_collate(list(dataset)))


def fused_scores(model):
    """What the two-branch network says of the test set."""
    with torch.no_grad():
        samples = model.predict(**normalised_images(model))
    return np.array([sample.pred_score.tolist() for sample in samples])


def test_mmpretrain_evaluates_the_merged_network_alone(folder, capsys):
    model = save()
    fused = fused_scores(model)
    assert fused.std(0).min() > 1e-4
    merge()
    assert 'WARNING' not in capsys.readouterr().err
    subprocess.run(
        [sys.executable, '-c', STOCK],
        check=True,
        capture_output=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    stock = json.loads(Path('stock.json').read_text())
    np.testing.assert_allclose(stock['scores'], fused[2], rtol=1e-5)
    assert stock['name'] == tiny_training.CLASSES[int(fused[2].argmax())]
    # The same files in tools/test.py, by training frequency.
    own = ['merged.py', 'merged.pth', '--out', 'own.json']
    grouped = 'test_evaluator.type=GroupedAveragePrecision'
    evaluate([*own, '--cfg-options', grouped])
    out = json.loads(Path('own.json').read_text())
    scores = [entry['scores'] for entry in out['predictions']]
    np.testing.assert_allclose(scores, fused, rtol=1e-5)
    assert out['metrics'].keys() == {
        f'multi-label/mAP{group}'
        for group in ('', '_head', '_medium', '_tail')
    }
    # Without ties both evaluators agree.
    key = 'multi-label/mAP'
    expected = pytest.approx(out['metrics'][key], rel=1e-5)
    assert stock['metrics'] == {key: expected}


def test_the_images_for_the_norms(folder):
    cfg = load_config('config.py', dataset_meta=META)
    test_images = list(training_batches(cfg, 7))

    def paths(batches):
        samples = [s for batch in batches for s in batch['data_samples']]
        return [Path(sample.img_path).name for sample in samples]

    assert sorted(paths(test_images)) == [f'{i}.png' for i in range(7)]
    # Seven by four: not one image left over, and as the test shows them.
    assert [len(batch['inputs']) for batch in test_images] == [4, 3]
    assert test_images[0]['inputs'].shape[1:] == (3, 32, 32)
    drawn = [paths(training_batches(cfg, 5, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5
    assert len(paths(training_batches(cfg, 99))) == 7


def test_norms_measured_on_training_images(folder, capsys):
    model = save(noise=0.001)
    merge('--bn-images', '5')
    assert 'measured on 5 training images' in capsys.readouterr().out
    averaged = merge_branches(model.state_dict())
    written = read_checkpoint('merged.pth')
    changed = {
        key
        for key, value in averaged.items()
        if not torch.equal(written['state_dict'][key], value)
    }
    assert changed == {
        key
        for key in averaged
        if key.startswith('backbone.layer4.')
        and key.endswith(('_mean', '_var', '_tracked'))
    }
    assert written['meta']['bn_images'] == 5
    assert written['meta']['dataset_meta'] == META


def test_a_warning_where_the_branches_have_drifted(folder, capsys):
    save(noise=1.0)
    merge()
    shown = capsys.readouterr().err
    assert 'WARNING: the branches have drifted apart' in shown
    assert f'above {DRIFT_LIMIT}' in shown


def test_averaged_weights_are_what_is_merged(folder):
    """EMAHook puts them in the place of the trained ones."""

    def average(content):
        hook = EMAHook()
        hook.ema_model = ExponentialMovingAverage(model)
        for parameter in hook.ema_model.module.parameters():
            parameter.data.mul_(3)
        hook.before_save_checkpoint(None, content)

    model = save()
    save(change=average)
    _, merged = merge_checkpoint('config.py', 'epoch_1.pth')
    expected = merge_branches(model.state_dict())['head.fc.weight'] * 3
    torch.testing.assert_close(
        merged['state_dict']['head.fc.weight'], expected
    )


def merged_before(content):
    content['state_dict'] = merge_branches(content['state_dict'])


def incomplete(content):
    content['state_dict'].pop('backbone.layer1.0.conv1.weight')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (merged_before, r'epoch_1\.pth: there are no two br.*"backbone'),
        (incomplete, r'layer1\.0\.conv1\.weight is missing'),
    ],
)
def test_a_checkpoint_that_cannot_be_merged(folder, change, message):
    save(change=change)
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError, match=message):
        merge()
    assert sorted(folder.iterdir()) == before


def test_the_config_of_a_plain_network(folder):
    save()
    configs = tiny_training.REPO / 'configs'
    baseline = f"_base_ = '{configs}/baselines/voc_uniform_bce.py'\n"
    Path('config.py').write_text(baseline + "data_root = 'data'\n")
    with pytest.raises(ValueError, match='is a ImageClassifier, which has no'):
        merge()


def test_heads_that_are_not_merged_as_they_are(folder):
    change = "\nmodel['head']['type'] = 'LinearClsHead'\n"
    tiny_training.extend(folder / 'tiny.py', CONFIG + change, 'config.py')
    save()
    with pytest.raises(ValueError, match='a LinearClsHead alone does not'):
        merge()
    merge('--cfg-options', 'model.head.type=MultiLabelLinearClsHead')
    csra = dict(type='CSRAClsHead', in_channels=32, num_heads=1, lam=0.1)
    change = f'\nmodel.update(neck=None, head={csra})\n'
    tiny_training.extend(folder / 'tiny.py', CONFIG + change, 'config.py')
    save()
    with pytest.warns(UserWarning, match='two CSRAClsHead is not the mean'):
        merge('--force')


def test_other_classes_in_the_file_are_refused(folder):
    """MMPretrain's dataset would take their indices for its own."""
    save()
    merge()
    files = 'merged.py', 'merged.pth'
    evaluate([*files])
    path = Path('data/test.json')
    content = json.loads(path.read_text())
    content['metainfo']['classes'].reverse()
    path.write_text(json.dumps(content))
    cfg = load_config('merged.py')
    cfg.val_dataloader = cfg.test_dataloader
    for run in (
        lambda: evaluate([*files]),
        lambda: build_loader(cfg, cfg.test_dataloader),
        lambda: quantization._validation(cfg),
    ):
        with pytest.raises(ValueError, match=r'class 0 is .* in place of'):
            run()


def test_what_is_there_stays(folder):
    save()
    for name in ('merged.py', 'merged.pth'):
        Path(name).write_text('precious')
        with pytest.raises(ValueError, match=f'{name} exists; pass --force'):
            merge()
        assert Path(name).read_text() == 'precious'
        Path(name).unlink()
    Path('epoch_1.py').write_text('')
    for target in ('epoch_1.pth', 'config.pth'):
        with pytest.raises(ValueError, match='is read; give another'):
            main(['config.py', 'epoch_1.pth', target, '--force'])


@pytest.mark.parametrize('old', [None, 'old'])
@pytest.mark.parametrize(
    'place', [(AtomicFileBackend, 'put'), (merge_module, 'write_text')]
)
def test_a_full_disk_leaves_no_half(folder, old, place, monkeypatch):
    save()
    for name in ('merged.py', 'merged.pth'):
        if old is not None:
            Path(name).write_text(old)

    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(*place, fail)
    before = {path: path.stat().st_size for path in folder.iterdir()}
    with pytest.raises(OSError, match='No space'):
        merge('--force')
    assert {p: p.stat().st_size for p in folder.iterdir()} == before
