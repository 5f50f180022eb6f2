"""The training set's counts reach the losses, and only fitting ones."""

import pytest
from engine_runner import Model, Numbers, make_runner
from torch import nn

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.models import LogitCompensatedBCELoss

HOOKS = ['ClassStatisticsHook']


def train(work_dir, counts=(6, 2, 2), model=None, **options):
    model = model or Model()
    runner = make_runner(
        work_dir, model, Numbers(counts), hooks=HOOKS, **options
    )
    runner.train()
    return runner.model


def test_counts_arrive_and_travel_with_the_checkpoint(tmp_path):
    class Two(Model):
        def __init__(self):
            super().__init__()
            other = LogitCompensatedBCELoss(num_classes=3)
            self.branches = nn.ModuleDict({'r': other})

    # The loss weights by them, and raises where they are unknown.
    model = train(tmp_path, model=Two())
    for loss in (model.loss, model.branches['r']):
        assert loss.class_counts.tolist() == [6, 2, 2]
        assert loss.num_train_images.item() == 8
    state = read_checkpoint(tmp_path / 'epoch_1.pth')
    assert state['state_dict']['loss.class_counts'].tolist() == [6, 2, 2]


def test_without_the_hook_the_loss_says_what_to_add(tmp_path):
    with pytest.raises(ValueError, match='ClassStatisticsHook'):
        make_runner(tmp_path).train()


def test_after_load_from_the_data_wins(tmp_path):
    train(tmp_path / 'a')
    model = train(
        tmp_path / 'b', (5, 4, 3), load_from=str(tmp_path / 'a/epoch_1.pth')
    )
    assert model.loss.class_counts.tolist() == [5, 4, 3]


def resume(tmp_path, counts=(6, 2, 2), **kwargs):
    return train(
        tmp_path,
        counts,
        resume=True,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        **kwargs,
    )


def test_resume_with_the_same_counts(tmp_path):
    # A scheduler restarts a job by --resume, the first time as well.
    for _ in range(2):
        assert resume(tmp_path).loss.class_counts.tolist() == [6, 2, 2]


@pytest.mark.parametrize('hooks', [HOOKS, [*HOOKS, 'ExactResumeHook']])
def test_resume_with_other_counts_is_refused(tmp_path, hooks):
    """Where ExactResumeHook has nothing to compare, it does not help."""
    train(tmp_path)
    dataset = Numbers((6, 3, 2))
    runner = make_runner(tmp_path, Model(), dataset, hooks=hooks, resume=True)
    with pytest.raises(ValueError, match=r'2 images of class 1.* has 3: '):
        runner.train()


def test_resume_with_another_number_of_images_is_refused(tmp_path):
    """The weights of the loss are of the shares n_k / N."""
    train(tmp_path)
    dataset = Numbers(num_train_images=9)
    runner = make_runner(tmp_path, Model(), dataset, hooks=HOOKS, resume=True)
    with pytest.raises(ValueError, match=r'trained on 8 images, .* has 9: '):
        runner.train()


def test_resume_with_exact_resume_hook_leaves_counts_to_it(tmp_path):
    model = Model()
    hooks = [*HOOKS, 'ExactResumeHook']
    make_runner(tmp_path, model, Numbers(), hooks=hooks).train()
    runner = make_runner(
        tmp_path, Model(), Numbers((6, 3, 2)), hooks=hooks, resume=True
    )
    runner.train()
    assert runner.model.loss.class_counts.tolist() == [6, 3, 2]


def test_a_dataset_without_counts_is_refused(tmp_path):
    runner = make_runner(
        tmp_path, dataset=Numbers(class_counts=None), hooks=HOOKS
    )
    with pytest.raises(ValueError, match='no "class_counts"'):
        runner.train()


def test_another_number_of_classes_is_refused(tmp_path):
    dataset = Numbers((6, 2), classes=('cat', 'cow'))
    runner = make_runner(tmp_path, dataset=dataset, hooks=HOOKS)
    with pytest.raises(ValueError, match=r'num_classes=3.* has 2 classes'):
        runner.train()


def test_a_model_that_takes_none_needs_none(tmp_path):
    make_runner(
        tmp_path,
        Model(loss=nn.BCEWithLogitsLoss()),
        Numbers(class_counts=None),
        hooks=HOOKS,
    ).train()
