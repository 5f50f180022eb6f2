"""Commands and snippets of the pages, run as they stand there."""

import csv
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from PIL import Image
from test_decisions_doc import SHORTER, make_pictures
from test_examples import BLOCKS, HOWTO, SNIPPETS, lines, run_by, tool_of
from tiny_training import make_config, write_data

from ltml_cli import TOOLS, main

LONG = 'train_cfg.max_epochs=1'
BEST = 'best_multi-label_mAP_epoch_7.pth'


def code(page, heading=None, language='bash'):
    """The blocks of a page, or of a section, that are run here."""
    return [
        block.code
        for block in BLOCKS
        if block.page == page
        and block.language == language
        and heading in (None, block.heading)
        and run_by(block) in (HOWTO, SNIPPETS)
    ]


def write_inputs():
    """What the examples read, in the current folder."""
    for name in ('my_data', 'mine', 'new', 'one_hot'):
        make_pictures(Path('data', name))
    images = sorted(Path('data/mine/images').iterdir())
    Path('photos').mkdir()
    for path in ('photos/0.jpg', 'photos/1.jpg', 'photo.jpg'):
        Image.open(images[0]).convert('RGB').save(path)
    with open('data/one_hot/table.csv', 'w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['file', 'cat', 'dog', 'split'])
        for number, path in enumerate(images):
            name = f'images/{path.name}'
            rows.writerow([name, number % 2, number % 3 // 2, 'a'])


@pytest.mark.parametrize(
    ('page', 'heading', 'tools'),
    [
        (
            'howto.md',
            None,
            'train thresholds predict train compare compare train '
            'dataset-report train convert convert test',
        ),
        ('index.md', None, 'convert train predict'),
        ('data.md', 'A validation set', 'train test'),
    ],
)
def test_the_commands_run(
    page, heading, tools, tmp_path, monkeypatch, quick, capsys
):
    monkeypatch.chdir(tmp_path)
    write_inputs()
    if page != 'index.md':
        folder = 'data/mine' if page == 'howto.md' else 'data/my_data'
        parts = f'--val-fraction 0.2 --test-fraction 0.2 --out {folder}'
        main(['convert', f'{folder}/labels.csv', *parts.split()])
    ran = []
    for number, words in enumerate(lines(''.join(code(page, heading)))):
        tool, rest = tool_of(words)
        config = getattr(TOOLS[tool].build().parse_args(rest), 'config', '')
        if 'ltml_custom' in (config or ''):
            rest += ['--cfg-options', *SHORTER.split()]
            rest.append(f'experiment_name={page}_{number}')
            if tool == 'train' and 'train' in ran and '--resume' not in rest:
                rest.append(LONG)
        if any(BEST in word for word in rest):
            (best,) = Path('work_dirs/best').glob('best_*.pth')
            rest = [w.replace(BEST, best.name) for w in rest]
        ran.append(tool)
        main([tool, *rest])
    assert ran == tools.split()
    work = 'best' if page == 'data.md' else 'ltml_custom'
    assert Path(f'work_dirs/{work}/epoch_8.pth').is_file()
    shown = capsys.readouterr().out
    if page == 'howto.md':
        assert Path('out/recall.json').is_file()
        assert Path('data/one_hot/train.json').is_file()
        assert Path('out/test.json').is_file()
    else:
        assert 'Thresholds for predict.py' in shown


def run(snippet):
    names = {}
    exec(snippet, names)
    return names


def test_the_snippets_run(tmp_path, quiet):
    (plain,) = [
        snippet
        for snippet in code('howto.md', language='python')
        if 'import torch' in snippet
    ]
    names = run(plain)
    grads = [p.grad for p in names['network'].parameters()]
    assert all(torch.isfinite(grad).all() and grad.any() for grad in grads)
    assert len(names['sampler']) == 6


def test_the_snippets_of_configs(tmp_path):
    """Those of single entries, merged into a config that trains."""
    section = 'Only the sampler, or only a loss'
    snippet, _ = code('howto.md', section, 'python')
    cfg = make_config(write_data(tmp_path / 'data'), tmp_path / 'work')
    backbone = {**cfg.model.backbone}
    cfg.model = dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='MultiLabelLinearClsHead', num_classes=3, in_channels=32
        ),
    )
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
    cfg.train_dataloader.dataset.type = 'MultiLabelDataset'
    own = Config.fromstring(snippet.replace('=20', '=3'), '.py')
    sampler = own.train_dataloader.sampler
    assert sampler.pop('_delete_')
    cfg.train_dataloader.sampler = sampler
    cfg.merge_from_dict({'model': own.model, 'custom_hooks': own.custom_hooks})
    Runner.from_cfg(cfg).train()
    assert [*(tmp_path / 'work').glob('*.pth')]


def test_the_snippets_of_networks():
    swin, fork = code('README.md', 'Other backbones', 'python')
    (loss,) = code('method.md', 'Another loss', 'python')
    model = run(swin)['model']
    model.update(run(loss)['model'])
    network = MODELS.build(model)
    assert type(network.loss_cls.uniform).__name__ == 'AsymmetricLoss'
    backbone = dict(type='VisionTransformer', arch='deit-tiny')
    given = run(f'given = dict({fork.strip()})')['given']
    model = dict(type=model['type'], backbone=backbone, num_classes=3, **given)
    assert MODELS.build(model)
