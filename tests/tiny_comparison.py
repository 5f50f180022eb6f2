"""A comparison so small that a run takes seconds."""

import shutil

from tiny_training import write_data

from ltml_cli import parse
from ltml_mm.experiments.rows import build_config, parse_rows
from ltml_mm.experiments.runs import plan_runs

#: The rest of a stock row's config, whose backbone is made smaller below.
SMALL_HEAD = 'model.head.in_channels=64'


def write_set(folder):
    """Writes ten images, to train on and to test on."""
    write_data(folder)
    shutil.copy(folder / 'train.json', folder / 'test.json')
    return folder


def options(data):
    """Overrides for a narrow ResNet-18 on 64 x 64 pixels, two epochs."""
    loaders = [
        f'{name}_dataloader.{option}'
        for name in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ]
    scale = 'scale=(64,64)'
    return [
        f'data_root={data}',
        *('model.backbone.depth=18', 'model.backbone.stem_channels=8'),
        *('model.backbone.base_channels=8', 'model.backbone.init_cfg=None'),
        *('train_cfg.max_epochs=2', 'default_hooks.logger.interval=1'),
        'optim_wrapper.optimizer.lr=0.1',
        f'train_dataloader.dataset.dataset.pipeline.2.{scale}',
        f'val_dataloader.dataset.pipeline.1.{scale}',
        f'test_dataloader.dataset.pipeline.1.{scale}', *loaders,
    ]  # fmt: skip


def arguments(data, out, rows):
    """The command line of a comparison of two epochs with one seed."""
    fixed = '--data=custom --seeds=0 --jobs=2 --images-per-step=4'
    return [
        *fixed.split(),
        *('--epoch-images=12', '--keep-checkpoints', f'--out={out}'),
        *('--rows', *rows, '--cfg-options', *options(data)),
    ]


def planned(data, row, *further):
    """The run of a row and its config."""
    args = parse('compare', [*arguments(data, data / 'out', [row]), *further])
    _, rows = parse_rows(args.rows)
    cfg = build_config(rows[0], args)
    return plan_runs(args, {rows[0].name: cfg}, args.seeds, {})[0], cfg
