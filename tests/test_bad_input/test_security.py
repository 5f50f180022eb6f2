"""Nothing that a file, a name or an option holds is ever run."""

import ast
from pathlib import Path

import pytest
from bad_run import evaluation, prediction, training, write_case
from tiny_training import REPO

from ltml_mm.datasets import LongTailMultiLabelDataset

pytestmark = pytest.mark.usefixtures('quick')

SOURCES = sorted(
    path
    for folder in ('ltml_mm', 'tools', '.ci')
    for path in (REPO / folder).rglob('*.py')
)
#: What runs text or a pickle.
FORBIDDEN = {
    *('eval', 'exec', 'compile', '__import__', 'os.system', 'os.popen'),
    *('pickle.load', 'pickle.loads', 'pickle.Unpickler', 'np.load'),
    *('numpy.load', 'joblib.load', 'subprocess.getoutput', 'yaml.load'),
}
TEXT = (ast.Constant, ast.JoinedStr)


def faults(source):
    """Lists the calls that could run what comes from outside."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: word.value for word in node.keywords}
        if name in FORBIDDEN:
            found.append(name)
        if 'shell' in given:
            found.append(f'{name}(shell)')
        text = isinstance((node.args or [None])[0], TEXT)
        if name.startswith('subprocess.') and text:
            found.append(f'{name}(text)')
        if name == 'torch.load':
            only = given.get('weights_only')
            if not (isinstance(only, ast.Constant) and only.value is True):
                found.append(name)
    return found


@pytest.mark.parametrize(
    ('source', 'fault'),
    [
        ('torch.load(p)', 'torch.load'),
        ('torch.load(p, weights_only=False)', 'torch.load'),
        ("subprocess.run(f'ls {p}')", 'subprocess.run(text)'),
        ('subprocess.run([p], shell=True)', 'subprocess.run(shell)'),
        ('pickle.load(f)', 'pickle.load'),
        ('eval(text)', 'eval'),
    ],
)
def test_the_scan_finds_what_it_looks_for(source, fault):
    assert faults(source) == [fault]


def test_the_sources_run_no_shell_and_no_pickle():
    assert len(SOURCES) > 80
    bad = {str(path): faults(path.read_text()) for path in SOURCES}
    assert not {path: found for path, found in bad.items() if found}


def test_names_are_no_commands(tmp_path, monkeypatch):
    """A folder and an option that a shell would run, through every tool."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / '$(touch ran); `touch ran` & a b'
    config = write_case(folder)
    checkpoint = folder / 'work' / 'epoch_1.pth'
    option = 'experiment_name=$(touch ran);`touch ran`|x'
    assert training(config, option) == (0, '')
    assert evaluation(config, checkpoint)[0] == 0
    image = folder / 'data' / '$(touch ran);0.png'
    (folder / 'data' / '0.png').rename(image)
    out = folder / 'out'
    assert prediction(config, checkpoint, image, '--out', out)[0] == 0
    assert (out / 'pictures' / image.name).is_file()
    assert not list(tmp_path.rglob('ran'))


@pytest.mark.parametrize(
    'path', ['../a.png', 'x/../../a.png', '/a.png', 'http://example.org/a.png']
)
def test_paths_stay_in_the_folder_unless_allowed(tmp_path, path):
    file = tmp_path / 'train.json'
    file.write_text(
        '{"metainfo": {"classes": ["a"]}, "data_list": '
        f'[{{"img_path": "{path}", "gt_label": [0]}}]}}'
    )
    options = dict(ann_file='train.json', data_root=str(tmp_path))
    with pytest.raises(ValueError, match='leaves the folder of the images'):
        LongTailMultiLabelDataset(**options)
    allowed = LongTailMultiLabelDataset(**options, allow_outside=True)
    assert Path(allowed.get_data_info(0)['img_path']).name == 'a.png'
