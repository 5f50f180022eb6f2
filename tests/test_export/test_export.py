"""Exported files give the scores of predict.py, without the package."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import REPO, STOCK, extend, write_small

from ltml_cli import run_script
from ltml_mm.apis import MultiLabelInferencer, merge, read_checkpoint, train
from ltml_mm.decisions.thresholds import (
    Thresholds,
    weights_digest,
    write_thresholds,
)
from ltml_mm.export import export as exporting
from ltml_mm.export.export import export, facts, network_input

#: Small relatives of what is deployed; a two-branch network of each.
NETWORKS = {
    'resnet': '',
    'swin': "model = dict(backbone=dict(_delete_=True, type='SwinTransformer',"
    ' arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]), img_size=32,'
    ' window_size=4, out_indices=(1,)))',
    'convnext': "model = dict(backbone=dict(_delete_=True, type='ConvNeXt',"
    ' arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16]),'
    ' gap_before_final_norm=False))',
    'vit': "model = dict(backbone=dict(_delete_=True, type='VisionTransformer'"
    ', arch=dict(embed_dims=16, num_layers=2, num_heads=2,'
    ' feedforward_channels=16), img_size=32, patch_size=8))',
    'attention': "model = dict(head=dict(type='AttentionAtTestHead'))",
    'timm': "model = dict(backbone=dict(_delete_=True, type='TIMMBackbone',"
    " model_name='test_resnet.r160_in1k', pretrained=False))",
}
ONE_STREAM = """
train_dataloader = dict(sampler=dict(
    _delete_=True, type='DefaultSampler', shuffle=True))
"""
PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
onnx_only = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)),
    reason='needs onnx, onnxruntime and onnxscript',
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, quick):
    """Trains a network of a kind once; returns config and checkpoint."""
    made = {}

    def trained(kind='resnet'):
        if kind not in made:
            base = write_small(tmp_path_factory.mktemp(kind))
            config = extend(base, NETWORKS[kind])
            train.main([str(config), '--no-validate'])
            made[kind] = config, base.parent / 'work' / 'epoch_1.pth'
        return made[kind]

    return trained


@pytest.fixture(scope='module')
def inferencers(trained, tmp_path_factory):
    """The two-branch network, the merged one, and one of other kinds."""
    config, checkpoint = map(str, trained())
    merged = tmp_path_factory.mktemp('merged') / 'merged.pth'
    merge.main([config, checkpoint, str(merged)])
    stock = extend(Path(config), STOCK + ONE_STREAM, 'stock.py')
    work = tmp_path_factory.mktemp('stock')
    train.main([str(stock), '--no-validate', '--work-dir', str(work)])
    return {
        'stock': MultiLabelInferencer(stock, work / 'epoch_1.pth', 'cpu'),
        'two-branch': MultiLabelInferencer(config, checkpoint, 'cpu'),
        'merged': MultiLabelInferencer(
            merged.with_suffix('.py'), merged, 'cpu'
        ),
    }


def read(path):
    """Runs a file with what its format needs alone; returns run and facts."""
    path = Path(path)
    if path.suffix == '.onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        known = session.get_modelmeta().custom_metadata_map
        known = {key: json.loads(value) for key, value in known.items()}
        return lambda x: session.run(None, {'images': x})[0], known
    extra = {'ltml_mm.json': ''}
    if path.suffix == '.pt2':
        module = torch.export.load(path, extra_files=extra).module()
    else:
        module = torch.jit.load(path, _extra_files=extra)

    def run(images):
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run, json.loads(extra['ltml_mm.json'])


FORMATS = [
    pytest.param('onnx', '.onnx', marks=onnx_only),
    ('torch_export', '.pt2'),
    ('torchscript', '.pt'),
]


@pytest.mark.parametrize(
    ('network', 'kind', 'suffix'),
    [
        pytest.param('two-branch', 'onnx', '.onnx', marks=onnx_only),
        ('two-branch', 'torch_export', '.pt2'),
        ('two-branch', 'torchscript', '.pt'),
        ('merged', 'torch_export', '.pt2'),
        ('stock', 'torchscript', '.pt'),
    ],
)
def test_pictures_have_the_scores_of_predict(
    inferencers, tmp_path, network, kind, suffix
):
    inferencer = inferencers[network]
    path = tmp_path / f'network{suffix}'
    export(inferencer, path, kind)
    run, known = read(path)
    assert known == facts(inferencer, True)
    assert known['classes'] == ['common', 'medium', 'rare']
    assert known['thresholds'] == [0.5] * 3
    rng = np.random.default_rng(1)
    # Sizes and numbers that the export has not checked itself.
    for shape in ((1, 20, 24, 3), (4, 61, 33, 3), (2, 32, 32, 3)):
        images = rng.integers(0, 256, shape, np.uint8)
        expected = [
            [*record['scores'].values()]
            for record in inferencer([image[..., ::-1] for image in images])
        ]
        np.testing.assert_allclose(run(images), expected, rtol=0, atol=1e-4)


def assert_parity(trained, network, kind, suffix, tmp_path):
    config, checkpoint = trained(network)
    path = tmp_path / f'network{suffix}'
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu')
    assert export(inferencer, path, kind) <= 1e-4
    run, _ = read(path)
    pictures = sorted((Path(config).parent / 'data').glob('*.png'))[:5]
    for record in inferencer([*map(str, pictures)]):
        pixels = np.asarray(Image.open(record['path']).convert('RGB'))
        found = run(pixels[None])[0]
        expected = [*record['scores'].values()]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('network', ['swin', 'timm'])
def test_parity_of_families(trained, network, tmp_path):
    assert_parity(trained, network, 'torch_export', '.pt2', tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(('kind', 'suffix'), FORMATS)
@pytest.mark.parametrize('network', NETWORKS)
def test_parity_of_families_and_formats(
    trained, network, kind, suffix, tmp_path
):
    assert_parity(trained, network, kind, suffix, tmp_path)


def test_without_preprocessing_the_input_is_the_network_s(
    inferencers, tmp_path
):
    inferencer = inferencers['two-branch']
    path = tmp_path / 'network.pt2'
    export(inferencer, path, 'torch_export', with_preprocessing=False)
    run, known = read(path)
    assert known['preprocessing'] is False
    pictures = np.random.default_rng(2).integers(
        0, 256, (3, 9, 9, 3), np.uint8
    )
    expected = [
        [*record['scores'].values()]
        for record in inferencer([image[..., ::-1] for image in pictures])
    ]
    inputs = network_input(inferencer, pictures)
    assert inputs.shape == (3, 3, 32, 32)
    np.testing.assert_allclose(run(inputs), expected, rtol=0, atol=1e-4)


def test_a_file_with_other_scores_is_not_written(
    inferencers, tmp_path, monkeypatch
):
    """A fault of the exporter: weights that are not the network's."""
    own = exporting._EXPORTERS['torch_export']

    def faulty(scorer, images):
        program = own(scorer, images)
        weight = program.state_dict['network.heads.uniform.fc.weight']
        weight.data += 0.1
        return program

    table = {**exporting._EXPORTERS, 'torch_export': faulty}
    monkeypatch.setattr(exporting, '_EXPORTERS', table)
    path = tmp_path / 'network.pt2'
    with pytest.raises(ValueError, match=r'other scores.*is not written'):
        export(inferencers['two-branch'], path, 'torch_export')
    assert not path.exists()


def test_thresholds_travel_in_the_metadata(trained, tmp_path):
    config, checkpoint = trained()
    plain = MultiLabelInferencer(config, checkpoint, 'cpu')
    rows = [
        {'name': name, 'threshold': value}
        for name, value in zip(
            ('common', 'medium', 'rare'), (0.5, 0.25, 0.125), strict=True
        )
    ]
    sha256 = weights_digest(read_checkpoint(checkpoint)['state_dict'])
    chosen = Thresholds({'name': 'x', 'sha256': sha256}, 'f1', {}, rows)
    write_thresholds(tmp_path / 'own.json', chosen)
    own = MultiLabelInferencer(
        config, checkpoint, 'cpu', thresholds=tmp_path / 'own.json'
    )
    assert facts(own, True)['thresholds'] == [0.5, 0.25, 0.125]
    assert facts(own, True)['thresholds_for'] == 'f1'
    assert facts(plain, True)['thresholds_for'] is None


@onnx_only
def test_a_merged_network_with_attention_in_8_bits(trained, tmp_path, capsys):
    config, checkpoint = map(str, trained('attention'))
    merged = str(tmp_path / 'merged.pth')
    merge.main([config, checkpoint, merged])
    written = str(tmp_path / 'merged.py')
    out, small = str(tmp_path / 'network.onnx'), str(tmp_path / 'int8.onnx')
    run_script('export', [written, merged, out, '--int8', small])
    # It knows no training images.
    assert 'ranges of 10 test images' in capsys.readouterr().out
    image = np.zeros((1, 40, 30, 3), np.uint8)
    near = [exporting.run_onnx(path)(image) for path in (out, small)]
    np.testing.assert_allclose(*near, atol=0.05)


@onnx_only
def test_the_tool_and_the_documented_example(trained, tmp_path, capsys):
    """The example of the page, as written, beside predict's scores."""
    config, checkpoint = map(str, trained())
    out, small = str(tmp_path / 'network.onnx'), str(tmp_path / 'int8.onnx')
    run_script(
        'export',
        [config, checkpoint, out, '--int8', small, '--int8-images', '8'],
    )
    said = capsys.readouterr().out
    assert re.search(r"within \d\.\de-\d\d of predict.py's", said)
    # The small config validates on its test set.
    assert re.search(r'mAP [\d.]+ in place of [\d.]+ on the 10 test', said)
    page = (REPO / 'docs' / 'deployment.md').read_text()
    code = re.search(r'```python\n(import json\n.*?)```', page, re.DOTALL)[1]
    assert len(code.splitlines()) <= 20
    example = tmp_path / 'predict_onnx.py'
    example.write_text(code)
    picture = str(Path(config).parent / 'data' / '0.png')
    scores = MultiLabelInferencer(config, checkpoint, 'cpu')(picture)[0]
    for path, tolerance in ((out, 2e-3), (small, 0.5)):
        found = subprocess.run(
            [sys.executable, example, path, picture],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        ).stdout
        assert found.startswith(picture)
        for name, score in re.findall(
            r'(\w+) (\d\.\d+)', found[len(picture) :]
        ):
            assert float(score) >= 0.5
            assert float(score) == pytest.approx(
                scores['scores'][name], abs=tolerance
            )
    facts_of = [read(path)[1] for path in (out, small)]
    assert facts_of[0] == facts_of[1]
    with pytest.raises(SystemExit, match='1'):
        run_script('export', [config, checkpoint, out])
    assert 'exists; pass --force' in capsys.readouterr().err


def test_a_classifier_of_one_label_is_refused(trained, tmp_path):
    config, checkpoint = map(str, trained())
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu')
    inferencer.model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match='no multi-label classifier'):
        export(inferencer, BytesIO(), 'onnx')
