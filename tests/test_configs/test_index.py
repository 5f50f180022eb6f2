"""The table of configs, the metafile and the model index name them all."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from mmpretrain.apis.model import ModelHub, get_model

from ltml_cli.result_parsers import ROWS
from ltml_mm.experiments.rows import config_file

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / 'configs/README.md').read_text(encoding='utf-8')
CONFIGS = {
    path.relative_to(ROOT / 'configs').as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
}


def figures(name):
    """The mean mAP of a row over all and over tail classes, as printed."""
    found = {}
    with (ROOT / f'docs/results/{name}.csv').open(encoding='utf-8') as file:
        for run in csv.DictReader(file):
            if run['variant'] == 'fused':
                found.setdefault(run['row'], []).append(
                    [float(run['total']), float(run['tail'])]
                )
    return {
        row: '{:.2f} / {:.2f}'.format(*np.mean(runs, 0))
        for row, runs in found.items()
    }


def index():
    """The content of the files that the model index names."""
    names = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    collections, models = [], []
    for name in names:
        content = yaml.safe_load((ROOT / name).read_text(encoding='utf-8'))
        collections += content['Collections']
        models += content['Models']
    return collections, models


def test_the_table_names_every_config():
    assert set(re.findall(r'\]\(([\w/]+\.py)\)', TABLE)) == CONFIGS


@pytest.mark.parametrize('row', ROWS)
def test_a_row_has_its_configs_and_figures(row):
    line = re.search(rf'^\| `{row}` \|.*\|$', TABLE, re.M)[0]
    expected = [config_file(row, data) for data in ('voc', 'coco')]
    named = re.findall(r'\]\(([\w/]+\.py)\)', line)
    assert [ROOT / 'configs' / name for name in named] == expected
    assert line.split('|')[-2].strip() == figures('coco80')[row]


def test_the_index_names_every_config():
    collections, models = index()
    assert {model['Config'] for model in models} == {
        f'configs/{name}' for name in CONFIGS
    }
    assert len(models) == len(CONFIGS)
    known = {collection['Name'] for collection in collections}
    for model in models:
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] in known
        assert {'Training Data', 'Epochs', 'Batch Size'} <= set(
            model['Metadata']
        )
    for collection in collections:
        assert (ROOT / collection['README']).is_file()


def test_the_index_has_the_figures_of_the_demo():
    results = {
        model['Name']: model['Results']
        for model in index()[1]
        if model['Results'] is not None
    }
    metrics = results.pop('ltml_demo')[0]['Metrics']
    shown = f'{metrics["mAP"]:.2f} / {metrics["mAP_tail"]:.2f}'
    assert shown == figures('demo')['ltml']
    assert not results  # nothing else has been measured as it is configured


def test_mmpretrain_finds_the_configs_by_the_index(monkeypatch):
    monkeypatch.setattr(ModelHub, '_models_dict', {})
    ModelHub.register_model_index(ROOT / 'model-index.yml', ROOT)
    names = {Path(name).stem for name in CONFIGS}
    assert set(ModelHub._models_dict) == names
    assert get_model('ltml_demo').num_classes == 20
