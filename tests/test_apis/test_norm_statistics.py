"""BatchNorm statistics that are measured anew after a training."""

import pytest
import torch
from tiny_training import extend, write_small

from ltml_mm.apis import norm_statistics, train
from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import build_model
from ltml_mm.apis.norm_statistics import (
    NormStatisticsHook,
    remeasure_checkpoint,
    training_batches,
)

HOOK = "default_hooks = dict(bn=dict(type='NormStatisticsHook'))"
STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A training with the hook, BatchNorm by stream and a frozen stem."""
    folder = tmp_path_factory.mktemp('norms')
    text = (
        f'{HOOK}\n'
        "model = dict(bn_streams='separate', backbone=dict(frozen_stages=0))"
    )
    config = extend(write_small(folder), text)
    train.main([str(config)])
    return folder / 'work', config


def weights(path):
    return read_checkpoint(path)['state_dict']


def test_statistics_alone_differ_and_none_of_frozen_layers(trained):
    work, _ = trained
    old, new = (weights(work / f'epoch_1{end}.pth') for end in ('', '_bn'))
    assert old.keys() == new.keys()
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert changed
    assert all(key.endswith(STATISTICS) for key in changed)
    # Both branches, and the trunk behind the frozen stem.
    places = {'.'.join(key.split('.')[:2]) for key in changed}
    assert places == {f'backbone.layer{n}' for n in (1, 2, 3, 4)}
    assert read_checkpoint(work / 'epoch_1_bn.pth')['meta']['bn_images'] == 10
    # A resumed training goes on from the other one.
    assert find_whole_checkpoint(work).endswith('epoch_1.pth')


def test_the_first_norm_sees_each_training_image_once(trained):
    work, path = trained
    cfg = load_config(path)
    new = weights(work / 'epoch_1_bn.pth')
    model = build_model(cfg).eval()
    model.load_state_dict(new)
    seen = []
    backbone = model.backbone
    layer = backbone.layer1[0]
    layer.conv1.register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        for batch in training_batches(cfg, 99):
            inputs = model.data_preprocessor(batch, False)['inputs']
            model(inputs, mode='tensor')
    mean = torch.cat(seen).mean((0, 2, 3))
    found = layer.bn1.running_mean
    torch.testing.assert_close(found, mean, atol=1e-5, rtol=1e-4)


def test_one_process_measures_without_the_others(
    trained, tmp_path, monkeypatch
):
    cfg = load_config(trained[1])
    cfg.model.backbone.norm_cfg = dict(type='SyncBN')
    used = []
    monkeypatch.setattr(
        norm_statistics, 'trained_norms', lambda model: used.append(model)
    )
    monkeypatch.setattr(norm_statistics, 'reestimate_norms', lambda *_: 0)
    remeasure_checkpoint(cfg, trained[0] / 'epoch_1.pth', tmp_path / 'x.pth')
    sync = torch.nn.SyncBatchNorm
    assert not any(isinstance(part, sync) for part in used[0].modules())


def test_what_cannot_be_measured_is_refused(trained, tmp_path):
    work, path = trained
    with pytest.raises(ValueError, match='at least 1, got 0'):
        NormStatisticsHook(images=0)
    cfg = load_config(path)
    cfg.model.backbone.norm_eval = True
    with pytest.raises(ValueError, match='no BatchNorm here'):
        remeasure_checkpoint(cfg, work / 'epoch_1.pth', tmp_path / 'x.pth')
    assert not [*tmp_path.iterdir()]
