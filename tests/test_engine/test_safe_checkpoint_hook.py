"""Checkpoints that survive kills, full disks and rot."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from engine_runner import Model, make_runner
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import METRICS
from mmengine.runner import Runner
from tiny_training import make_config

from ltml_mm.apis.checkpoint import (
    CheckpointError,
    find_whole_checkpoint,
    read_checkpoint,
)
from ltml_mm.engine import SafeCheckpointHook
from ltml_mm.files import AtomicFileBackend


def save(path, value=0.0):
    """Saves a small checkpoint as the hook does."""
    content = {'state_dict': {'w': torch.full((500,), value)}, 'meta': {}}
    plain = path.with_suffix('.plain')
    torch.save(content, plain)
    AtomicFileBackend().put(plain.read_bytes(), path)
    plain.unlink()


@pytest.fixture
def work_dir(tmp_path):
    """Four checkpoints; the pointer names the fourth."""
    for step in (8, 9, 10, 11):
        save(tmp_path / f'iter_{step}.pth', step)
    save(tmp_path / 'best_mAP_iter_12.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_11.pth'))
    return tmp_path


def refused(config, words, kind=ValueError, steps=0):
    """What a run is refused with after so many steps."""
    runner = Runner.from_cfg(config)
    with pytest.raises(kind, match=words) as caught:
        runner.train()
    assert runner.iter == steps
    return str(caught.value)


def flip_bit(path, position=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_checksum_is_the_one_sha256sum_reads(work_dir):
    done = subprocess.run(
        ['sha256sum', '--check', 'iter_9.pth.sha256'],
        cwd=work_dir,
        capture_output=True,
        check=True,
    )
    assert done.stdout == b'iter_9.pth: OK\n'


@pytest.mark.parametrize('damage', [flip_bit, truncate, os.remove])
def test_damaged_checkpoint_gives_way_to_the_one_before(
    work_dir, damage, monkeypatch
):
    said = []
    monkeypatch.setattr(
        'ltml_mm.apis.checkpoint.print_log',
        lambda text, **_: said.append(text),
    )
    damage(work_dir / 'iter_11.pth')
    # By name alone, "iter_9" would count as newer than "iter_10".
    assert find_whole_checkpoint(work_dir) == str(work_dir / 'iter_10.pth')
    (message,) = said
    assert 'iter_11.pth' in message
    assert f'resuming from {work_dir}/iter_10.pth' in message
    truncate(work_dir / 'iter_10.pth')
    assert find_whole_checkpoint(work_dir) == str(work_dir / 'iter_9.pth')


@pytest.mark.parametrize('position', [0.1, 0.3, 0.5, 0.7])
def test_flipped_bit_is_found_with_and_without_checksum(work_dir, position):
    path = work_dir / 'iter_11.pth'
    flip_bit(path, position)
    with pytest.raises(CheckpointError, match=r'iter_11\.pth\.sha256'):
        read_checkpoint(path)
    # A checkpoint of the stock hook has the checksums of its ZIP records.
    save(path)
    Path(f'{path}.sha256').unlink()
    read_checkpoint(path)
    # Half of the file is the tensor.
    flip_bit(path, 0.5)
    with pytest.raises(CheckpointError, match='is damaged'):
        read_checkpoint(path)


def test_no_whole_checkpoint_is_an_error(work_dir):
    for path in work_dir.glob('iter_*.pth'):
        truncate(path)
    with pytest.raises(CheckpointError, match='no whole checkpoint') as caught:
        find_whole_checkpoint(work_dir)
    for step in (8, 9, 10, 11):
        assert f'iter_{step}.pth' in str(caught.value)


def test_no_checkpoint_at_all(tmp_path):
    assert find_whole_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ('content', 'name'),
    # The last one is of a work directory that was moved.
    [(b'', 'iter_11'), (b'\0\xff', 'iter_11'), (b'/a/iter_10.pth', 'iter_10')],
)
def test_pointer_that_leads_nowhere(work_dir, content, name):
    (work_dir / 'last_checkpoint').write_bytes(content)
    assert find_whole_checkpoint(work_dir) == f'{work_dir}/{name}.pth'


def test_full_disk_leaves_the_old_checkpoint(work_dir, monkeypatch):
    def fail(descriptor):
        raise OSError(28, 'No space left on device')

    path = work_dir / 'iter_11.pth'
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='not written') as caught:
        save(path, 99)
    assert caught.value.filename == str(path)
    assert read_checkpoint(path)['state_dict']['w'][0] == 11
    assert not list(work_dir.glob('.*'))


@pytest.mark.parametrize(
    'options',
    [
        {'out_dir': 's3://bucket'},
        {'backend_args': {'backend': 'local'}},
        {'file_client_args': {'backend': 'disk'}},
    ],
)
def test_remote_storage_is_refused(options):
    with pytest.raises(ValueError, match='local folders only'):
        SafeCheckpointHook(**options)


def test_new_files_come_before_old_ones_go(data, tmp_path, monkeypatch):
    """Follows what happens to the files of a whole run, in order."""
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    leftover = work_dir / '.iter_3.pth.77.tmp'
    leftover.write_bytes(b'of a run that was killed')
    config = make_config(data, work_dir, steps=0)
    config.default_hooks.checkpoint.update(
        max_keep_ckpts=1, save_best='multi-label/mAP'
    )
    events = []
    replace, remove = os.replace, os.remove

    def note_replace(source, target):
        replace(source, target)
        events.append(('new', Path(target).name))

    def note_remove(path):
        events.append(('gone', Path(path).name))
        remove(path)

    monkeypatch.setattr(os, 'replace', note_replace)
    monkeypatch.setattr(os, 'remove', note_remove)
    # Every validation is better than the one before.
    scores = iter((0.1, 0.2, 0.3))
    monkeypatch.setattr(
        'ltml_mm.evaluation.GroupedAveragePrecision.evaluate',
        lambda self, size: {'multi-label/mAP': next(scores)},
    )
    Runner.from_cfg(config).train()

    for epoch in (2, 3):
        for name in ('best_multi-label_mAP_epoch_{}.pth', 'epoch_{}.pth'):
            new = events.index(('new', name.format(epoch)))
            checksum = events.index(('new', f'{name.format(epoch)}.sha256'))
            gone = events.index(('gone', name.format(epoch - 1)))
            assert max(new, checksum) < gone
        # The pointer moves between the two.
        assert ('new', 'last_checkpoint') in events[new:gone]
    kept = ('best_multi-label_mAP_epoch_3.pth', 'epoch_3.pth')
    assert sorted(path.name for path in work_dir.glob('*.pth*')) == [
        name + end for name in kept for end in ('', '.sha256')
    ]
    assert not leftover.exists()
    for path in work_dir.glob('*.pth'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ('key', 'there'),
    [
        ('mAP', 'multi-label/mAP, multi-label/mAP_'),
        ('multi-label/mAP_head', 'multi-label/mAP_medium'),
        ('multi-label/other/mAP', 'multi-label/rebalanced/mAP'),
        ('multi-label/F2', 'multi-label/mAP, multi-label/mAP_'),
    ],
)
@pytest.mark.parametrize('asks', ['save_best', 'monitor', 'early stop'])
def test_a_metric_that_no_validation_gives(data, tmp_path, key, there, asks):
    config = make_config(data, tmp_path)
    if asks == 'save_best':
        config.default_hooks.checkpoint.save_best = key
    elif asks == 'early stop':
        hook = dict(type='EarlyStoppingHook', monitor=key, rule='greater')
        config.custom_hooks.append(hook)
    else:
        schedule = dict(type='ReduceOnPlateauLR', monitor=key)
        config.param_scheduler.append(schedule)
    config.val_evaluator.update(head=50, tail=2)
    text = refused(config, f'gives {key!r}.*{there}')
    assert 'mAP_head' not in text.split('it gives')[1]


@pytest.mark.parametrize('key', ['multi-label/mAP_tail', 'auto'])
def test_metrics_that_validations_give(data, tmp_path, key):
    config = make_config(data, tmp_path, steps=0)
    config.default_hooks.checkpoint.save_best = key
    config.train_cfg.max_epochs = 1
    Runner.from_cfg(config).train()
    assert len(list(tmp_path.glob('best_*.pth'))) == 1


@METRICS.register_module()
class Brightness(BaseMetric):
    """One whose keys nobody knows before it has seen real samples."""

    def process(self, data_batch, data_samples):
        self.results += [sample['img_shape'][0] for sample in data_samples]

    def compute_metrics(self, results):
        return {'brightness': sum(results)}


@pytest.mark.parametrize(
    ('kind', 'there', 'steps'),
    [
        ('MultiLabelMetric', 'multi-label/precision, ', 0),
        ('AveragePrecision', 'multi-label/mAP$', 0),
        ('Brightness', 'brightness$', 3),
    ],
)
@pytest.mark.parametrize('hook', ['SafeCheckpointHook', 'CheckpointHook'])
def test_metrics_of_others(data, tmp_path, kind, there, steps, hook):
    config = make_config(data, tmp_path, steps=0)
    config.default_hooks.checkpoint.update(type=hook, save_best='x/accuracy')
    config.custom_hooks.append(dict(type='ScheduleCheckHook'))
    config.val_evaluator = dict(type=kind)
    kind = KeyError if steps and hook == 'CheckpointHook' else ValueError
    refused(config, f'it gives {there}|^.x/acc', kind, steps)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('default_hooks.checkpoint.save_best', 'auto'),
        (
            'custom_hooks',
            [dict(type='EarlyStoppingHook', monitor='multi-label/mAP')],
        ),
        ('param_scheduler', [dict(type='ReduceOnPlateauLR', monitor='x')]),
    ],
)
def test_without_a_validation_nothing_is_chosen(data, tmp_path, key, value):
    config = make_config(data, tmp_path)
    config.merge_from_dict({key: value})
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    refused(config, 'a validation, and this run has no')


def test_a_validation_without_a_label_is_told_before(data, tmp_path):
    config = make_config(data, tmp_path)
    content = json.loads((data / 'train.json').read_text())
    for entry in content['data_list']:
        entry['gt_label'] = []
    path = tmp_path / 'bare.json'
    path.write_text(json.dumps(content))
    config.val_dataloader.dataset.ann_file = str(path)
    refused(config, 'no image of the test set has a lab')


def test_a_key_whose_rule_nobody_knows(data, tmp_path):
    config = make_config(data, tmp_path)
    config.default_hooks.checkpoint.save_best = 'own/number'
    config.val_evaluator = dict(type='Brightness')
    refused(config, 'rule for key own/number')


HOOKS = ['ClassStatisticsHook', 'ResumeCheckHook']


@pytest.fixture
def trained(tmp_path):
    make_runner(tmp_path, hooks=HOOKS).train()
    return tmp_path / 'epoch_1.pth'


def start(work_dir, checkpoint, model=None, resume=True):
    runner = make_runner(
        work_dir, model, hooks=HOOKS, load_from=str(checkpoint), resume=resume,
        train_cfg=dict(by_epoch=True, max_epochs=2),
    )  # fmt: skip
    runner.train()
    return runner


def change(checkpoint, alter):
    content = read_checkpoint(checkpoint)
    alter(content['state_dict'])
    torch.save(content, checkpoint)


@pytest.mark.parametrize(
    ('alter', 'message'),
    [
        (lambda s: s.pop('fc.bias'), 'fc.bias is missing'),
        (lambda s: s.update(old=torch.ones(2)), 'old is unexpected'),
        (
            lambda s: s.update({'fc.weight': torch.ones(3, 2)}),
            r'fc.weight has shape \(3, 2\) instead of \(3, 1\)',
        ),
        (
            lambda s: s.update({'fc.weight': 'text'}),
            r'fc.weight has shape None instead of \(3, 1\)',
        ),
    ],
)
def test_a_difference_is_refused_and_named(trained, tmp_path, alter, message):
    assert start(tmp_path / 'a', trained).epoch == 2
    change(trained, alter)
    model = Model()
    before = model.fc.weight.detach().clone()
    with pytest.raises(ValueError, match=message) as caught:
        start(tmp_path / 'b', trained, model)
    assert torch.equal(model.fc.weight, before)  # Nothing was loaded.
    assert '1 differences' in str(caught.value)
    assert str(trained) in str(caught.value)
    assert 'load_from=CHECKPOINT' in str(caught.value)


def test_load_from_takes_what_fits(trained, tmp_path):
    change(trained, lambda s: s.pop('fc.bias'))
    assert start(tmp_path / 'b', trained, resume=False).epoch == 2


def test_many_differences_are_counted_and_the_first_named(trained, tmp_path):
    class Wide(BaseModel):
        def __init__(self):
            super().__init__()
            self.rows = torch.nn.ParameterList(list(torch.ones(9, 1)))

        def forward(self, inputs, labels, mode):
            return {'loss': sum(row.sum() for row in self.rows)}

    with pytest.raises(ValueError, match='differences: ') as caught:
        start(tmp_path / 'b', trained, Wide())
    assert str(caught.value).count(';') == 4
