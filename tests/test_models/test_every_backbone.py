"""Every row of the table of backbones, from the first step to the export."""

import warnings

import pytest
import torch
from fork_rows import ROWS, side
from mmpretrain import get_model
from tiny_training import CLASSES, NUMBERS, REPO, SMALL, write_data

from ltml_mm.apis import merge, predict, test, train
from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import build_model
from ltml_mm.models.parts import free_batch

pytestmark = pytest.mark.usefixtures('quick')
#: One of each way to fork; the others take more than ten minutes in all.
QUICK = ('poolformer', 'timm-eva02')
LONG = [
    pytest.param(row, marks=() if row in QUICK else pytest.mark.long)
    for row in ROWS
]


def write_config(folder, row):
    """A config that trains two steps with the row's backbone."""
    data = write_data(folder / 'data')
    (data / 'test.json').write_bytes((data / 'train.json').read_bytes())
    text = SMALL.format(
        repo=REPO, data=data, number=next(NUMBERS), folder=folder
    ).replace('(32, 32)', str(side(row)))
    backbone = dict(ROWS[row][0], _delete_=True)
    text += f'\nmodel = dict(backbone={backbone!r})\n'
    text += 'train_cfg = dict(max_epochs=2)\n'
    config = folder / 'row.py'
    config.write_text(text)
    return config


def exported(model, images):
    """The programs of a model for any number of images, as functions."""
    batch = {0: torch.export.Dim('batch')}
    program = torch.export.export(model, (images,), dynamic_shapes=(batch,))
    yield 'torch.export', program.module()
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        content = torch.onnx.export(
            program, (images,), dynamo=True, verbose=False
        ).model_proto.SerializeToString()
    session = runtime.InferenceSession(content)
    name = session.get_inputs()[0].name
    yield (
        'onnx',
        lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]),
    )


@pytest.mark.parametrize('row', LONG)
def test_a_row_trains_saves_loads_merges_and_exports(
    row, tmp_path, monkeypatch
):
    if row.startswith('timm'):
        pytest.importorskip('timm')
    monkeypatch.chdir(tmp_path)
    config = str(write_config(tmp_path, row))
    first, last = (f'work/epoch_{epoch}.pth' for epoch in (1, 2))
    train.main([config])
    state = read_checkpoint(last)['state_dict']
    test.main([config, last])
    predict.main([config, last, 'data/0.png', '--out', 'out'])
    merge.main([config, last, 'merged.pth'])
    test.main(['merged.py', 'merged.pth'])
    train.main([config, '--resume', first])
    for key, value in read_checkpoint(last)['state_dict'].items():
        assert torch.equal(value, state[key]), key

    both = build_model(load_config(config)).eval()
    both.load_state_dict(state, strict=False)
    one = free_batch(get_model('merged.py', pretrained='merged.pth')).eval()
    for model in (both, one):
        images = torch.rand(2, 3, *side(row))
        more = torch.rand(3, 3, *side(row))
        with torch.no_grad():
            expected = model(more)
            assert expected.shape == (3, len(CLASSES))
            for kind, run in exported(model, images):
                torch.testing.assert_close(
                    run(more), expected, rtol=1e-3, atol=1e-4, msg=kind
                )
