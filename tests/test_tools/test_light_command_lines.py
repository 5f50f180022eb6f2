"""The command ``ltml`` and what every tool does before heavy imports."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ltml_cli
from ltml_cli import TOOLS, parse, run_parsers
from ltml_cli.data_parsers import FORMATS
from ltml_cli.options import LAUNCHERS, parse_cfg_options
from ltml_cli.tools import run_script
from ltml_mm.apis import train
from ltml_mm.apis.distributed import RANK_VARIABLES
from ltml_mm.datasets.converters.convert import READERS

ROOT = Path(ltml_cli.__file__).parents[1]
#: What must not be imported for a help text or a refusal.
HEAVY = ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'numpy', 'ltml_mm')
#: Runs scripts in one process, and says what each left imported.
PROBE = f"""
import contextlib, io, json, runpy, sys
for script, words in json.loads(sys.argv[1]):
    sys.argv = [script, *words]
    sys.path.insert(1, script.rpartition('/')[0])
    status = None
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        with contextlib.redirect_stdout(shown):
            try:
                runpy.run_path(script, run_name='__main__')
            except SystemExit as end:
                status = end.code
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([script, status, heavy, shown.getvalue()]))
"""


def probe(*commands):
    """Runs (script, words) and yields status, heavy imports and text."""
    done = subprocess.run(
        [sys.executable, '-c', PROBE, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for line in done.stdout.splitlines():
        yield json.loads(line)


def scripts():
    return sorted(f'tools/{tool.script}' for tool in TOOLS.values())


def test_every_script_has_a_line_in_the_table():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'tools').rglob('*.py')
        if 'run_script' in path.read_text('utf-8')
    }
    assert found == set(scripts())


@pytest.mark.parametrize('name', TOOLS)
def test_outputs_are_refused_ahead_of_the_work(name, tmp_path, capsys):
    (file := tmp_path / 'file').touch()
    for action in TOOLS[name].build()._actions:
        if action.dest in ('out', 'figure', 'int8', 'show_dir'):
            words = action.option_strings[:1] or ['config', 'checkpoint']
            with pytest.raises(SystemExit, match='2'):
                parse(name, [*words, str(file / 'below')])
            said = capsys.readouterr().err
            assert f'below cannot be written: {file} is a file' in said


def test_help_imports_nothing_heavy():
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / 'tools').rglob('*.py'))
        if '__main__' in path.read_text('utf-8')
    ]
    assert {*scripts()} < {*found}
    seen = list(probe(*([script, ['--help']] for script in found)))
    assert [script for script, *_ in seen] == found
    for script, status, heavy, shown in seen:
        assert (status, heavy) == (0, []), script
        assert shown.startswith('usage:')


CONFIG = 'configs/ltml_demo.py'


@pytest.mark.parametrize(
    ('tool', 'words', 'status', 'said'),
    [
        ('train', 'ltml_costum', 1, 'ltml_costum; did you mean ltml_custom'),
        ('train', 'configs/ltml_dem.py', 1, 'mean configs/ltml_demo.py'),
        ('train', f'{CONFIG} --nix', 2, 'unrecognized arguments: --nix'),
        ('train', f'{CONFIG} --resume no.pth', 1, 'not found: no.pth'),
        ('train', f'{CONFIG} --cfg-options x', 2, 'not of the form KEY'),
        ('train', f'{CONFIG} --cfg-options data_root=doc', 1, 'mean docs'),
        ('test', f'{CONFIG} no.pth', 1, 'checkpoint not found: no.pth'),
        ('predict', f'{CONFIG} README.md no.jpg', 1, 'no such image or'),
        ('merge', f'{CONFIG} no.pth out.pth', 1, 'not found: no.pth'),
        ('dataset-report', 'no.json --out x', 1, 'no such file: no.json'),
    ],
)
def test_a_refusal_imports_nothing_heavy(tool, words, status, said):
    [(_, found, heavy, shown)] = probe(
        [f'tools/{TOOLS[tool].script}', words.split()]
    )
    assert (found, heavy) == (status, [])
    assert said in shown
    assert shown.count('\n') == 1


def test_the_command_lists_its_tools(capsys):
    ltml_cli.main([])
    listed = re.findall(r'^  ([a-z-]+)  +[A-Z]', capsys.readouterr().out, re.M)
    assert listed == list(TOOLS)


def test_the_command_knows_its_version(capsys):
    with pytest.raises(SystemExit):
        ltml_cli.main(['--version'])
    from ltml_mm import __version__

    assert capsys.readouterr().out == f'ltml_mm {__version__}\n'


def test_a_misspelt_tool(capsys):
    with pytest.raises(SystemExit) as end:
        ltml_cli.main(['trian', '--help'])
    assert end.value.code == 2
    assert "no tool 'trian'; did you mean train?" in capsys.readouterr().err


def test_choices_are_those_of_the_package():
    assert set(FORMATS) == set(READERS)
    assert set(run_parsers.PRECISIONS) == set(train.PRECISIONS)
    assert set(LAUNCHERS) == {'none', *RANK_VARIABLES}


@pytest.mark.parametrize(
    'name', ['ltml_custom', 'ltml_custom.py', 'configs/ltml_custom.py']
)
def test_a_shipped_config_is_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = Path(parse('train', [name]).config)
    assert found == ROOT / 'configs' / 'ltml_custom.py'
    (tmp_path / 'ltml_custom.py').touch()
    if name == 'ltml_custom.py':  # a file of one's own comes first
        assert parse('train', [name]).config == name


def test_overrides_may_hold_dicts():
    assert parse_cfg_options(
        ["custom_hooks=[dict(type='EMAHook', momentum=1e-4), {'a': (1, -2)}]"]
    ) == {
        'custom_hooks': [dict(type='EMAHook', momentum=1e-4), dict(a=(1, -2))]
    }


@pytest.mark.parametrize(
    'value',
    [
        *("[dict(type='EMAHook')", 'dict(type=EMAHook)', "dict('a', b=1)"),
        *('{1: [}', '{**a}', '[dict(a=__import__("os"))]', '[1,2', '(1,[2)]'),
        '1],[2',
    ],
)
def test_what_cannot_be_read_is_one_line(value, capsys, monkeypatch):
    command = [CONFIG, '--cfg-options', f'custom_hooks={value}']
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        run_script('train', command)
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count('\n') == 1
    assert 'custom_hooks=' in shown
