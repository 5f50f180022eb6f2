"""A stock Runner over eight numbers, for the hooks' tests."""

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ltml_mm.models import LogitCompensatedBCELoss

CLASSES = ('cat', 'cow', 'dog')
LABELS = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]).repeat(
    2, 1
)


class Numbers(Dataset):
    """Eight images of one pixel, with the statistics that are asked for."""

    def __init__(self, counts=(6, 2, 2), **metainfo):
        self.metainfo = {
            'classes': CLASSES,
            'class_counts': list(counts),
            'num_train_images': 8,
            **metainfo,
        }

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {
            'inputs': torch.tensor([float(index)]),
            'labels': LABELS[index],
        }


class Model(BaseModel):
    """One linear layer, and the loss of one branch."""

    def __init__(self, width=3, loss=None):
        super().__init__()
        self.fc = torch.nn.Linear(1, width)
        self.loss = loss or LogitCompensatedBCELoss(num_classes=3)

    def forward(self, inputs, labels, mode):
        return {'loss': self.loss(self.fc(torch.stack(list(inputs))), labels)}


def make_runner(work_dir, model=None, dataset=None, hooks=(), **options):
    """Builds a Runner of two steps an epoch."""
    loader = dict(
        dataset=dataset if dataset is not None else Numbers(),
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    optimizer = dict(type='SGD', lr=0.1)
    return Runner(
        **{
            'model': model if model is not None else Model(),
            'work_dir': str(work_dir),
            'train_dataloader': loader,
            'train_cfg': dict(by_epoch=True, max_epochs=1),
            'optim_wrapper': dict(optimizer=optimizer),
            'custom_hooks': [dict(type=name) for name in hooks],
            'default_scope': 'mmpretrain',
            'experiment_name': f'{work_dir.name}_{id(loader)}',
            **options,
        }
    )
