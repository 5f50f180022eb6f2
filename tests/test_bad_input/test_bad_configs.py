"""Mistyped configs: each ends before the first step, with what to change."""

import bad_run
import pytest
from tiny_training import extend

pytestmark = pytest.mark.usefixtures('quick')

TRAIN = 'train_dataloader'

#: Overrides, or lines added to the config, and what the error says.
REFUSED = {
    'too many classes': (
        ['model.num_classes=4'],
        r'num_classes=4, but the training set has 3 classes '
        r"\(common, medium, rare\): set num_classes=3 in the config's model",
    ),
    'no classes': (
        ['model.num_classes=0'],
        'num_classes must be a positive (int|integer), got 0',
    ),
    'fork at a module that does not exist': (
        ['model.fork_at=[layer9]'],
        r"fork.at names 'layer9', which ResNet does not have. .*layer4",
    ),
    'loss without counts': (
        ['default_hooks.class_statistics=None'],
        'does not know the class counts of the training set; add '
        r"dict\(type='ClassStatisticsHook'\)",
    ),
    'batch of none': ([f'{TRAIN}.batch_size=0'], 'batch_size=0'),
    'negative number of workers': (
        [f'{TRAIN}.num_workers=-1'],
        'num_workers option should be non-negative',
    ),
    'unknown loss option': (
        [
            'model.loss_cls.type=LogitCompensatedBCELoss',
            'model.loss_cls.compensation=learned',
        ],
        'compensation must be one of .*learnable.*, got .learned.',
    ),
    'unknown stream': (
        f"""{TRAIN} = dict(sampler=dict(streams=dict(
            _delete_=True,
            uniform=dict(type='UniformSampler'),
            balanced=dict(type='ClassAwareMultiLabelSampler'))))""",
        r"must have the streams \['uniform', 'rebalanced'\], got "
        r"\['uniform', 'balanced'\]",
    ),
    'missing stream': (
        f"""{TRAIN} = dict(sampler=dict(streams=dict(
            _delete_=True, uniform=dict(type='UniformSampler'))))""",
        'trains on two streams, but got a flat batch.',
    ),
    'missing two-stream wrapper': (
        f"""{TRAIN} = dict(dataset=dict(
            _delete_=True, type='LongTailMultiLabelDataset',
            ann_file='train.json', pipeline=[
                dict(type='LoadCheckedImage'),
                dict(type='Resize', scale=(32, 32)),
                dict(type='PackInputs')]))""",
        'LongTailMultiLabelDataset cannot read; wrap it: '
        r"dataset=dict\(type='TwoStreamDataset'",
    ),
    'preprocessor of one stream': (
        ['model.data_preprocessor.type=ClsDataPreprocessor'],
        r"write data_preprocessor=dict\(type='TwoStreamDataPreprocessor'",
    ),
    'no epoch': (
        ['train_cfg.max_epochs=0'],
        'a run without a step: max_epochs or max_iters must be at least 1',
    ),
    'mistyped model': (
        ['model.type=CollaborativeClassifier'],
        'the config does not fit CollaborativeClassifier: .* is not in the '
        r'mmpretrain::model registry; it is misspelt, or custom_imports',
    ),
    'mistyped argument': (
        ['model.backbone.dept=18'],
        r"nothing reads 'dept' in model\.backbone; .*model\.backbone\.depth",
    ),
    'depth that does not exist': (
        ['model.backbone.depth=19'],
        'the config does not fit ResNet: invalid depth 19',
    ),
    'learning rate of text': (
        ['optim_wrapper.optimizer.lr=fast'],
        "optim_wrapper.optimizer.lr must be a number or None, got 'fast'",
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(tmp_path, case):
    change, message = REFUSED[case]
    config = bad_run.write_case(tmp_path)
    if isinstance(change, str):
        config, change = extend(config, change), []
    outcome = bad_run.training(config, *change)
    if 'flat batch' in message:  # the three lines to add follow
        assert outcome[0] == 1
        assert message in outcome[1]
    else:
        bad_run.assert_refused(outcome, message)
    bad_run.assert_nothing_half_written(tmp_path)


def test_classes_of_a_stock_model(tmp_path):
    """No module of it takes the class counts; it is checked all the same."""
    config = bad_run.write_case(tmp_path, plain=True)
    assert bad_run.training(config)[0] == 0
    other = ('model.head.num_classes=5', f'work_dir={tmp_path / "other"}')
    outcome = bad_run.training(config, *other)
    bad_run.assert_refused(
        outcome, 'head has num_classes=5, but .* has 3 classes'
    )


def test_real_bugs_keep_their_stack(tmp_path, monkeypatch):
    """Not every TypeError is a mistyped config."""

    def broken(*args, **kwargs):
        raise TypeError('a bug')

    place = 'ltml_mm.models.CollaborativeTwoBranchClassifier.loss'
    monkeypatch.setattr(place, broken)
    with pytest.raises(TypeError, match='a bug'):
        bad_run.training(bad_run.write_case(tmp_path))


def test_the_stack_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv('LTML_TRACEBACK', '1')
    with pytest.raises(KeyError, match='Unknown'):
        bad_run.training(bad_run.write_case(tmp_path), 'model.type=Unknown')
