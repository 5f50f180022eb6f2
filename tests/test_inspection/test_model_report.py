import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import report_case
from sklearn.metrics import precision_recall_curve

from ltml_mm.apis.model import load_network
from ltml_mm.decisions.thresholds import Thresholds, write_thresholds
from ltml_mm.inspection import model_report
from ltml_mm.inspection.attention import has_grad_cam
from ltml_mm.inspection.model_report import (
    MAX_BYTES,
    MAX_DETAILS,
    add_pictures,
    curve,
    describe,
    main,
    render,
)
from ltml_mm.inspection.pictures import heat_uri


def noise_page(num_classes, path):
    """Writes a page of a two-branch network with maps on every picture."""
    subject = report_case.noise_subject(num_classes)
    page = describe([subject], ['Every class is decided at 0.5.'])
    page['duplicates'] = {'note': 'The training set was not searched.'}
    page['cam'] = add_pictures(page, subject, cam=False)
    heat = heat_uri(np.random.default_rng(0).random((10, 14)))
    for row in page['classes']:
        for one in (one for kind in row['cards'].values() for one in kind):
            one['heats'] = {'uniform': heat, 'rebalanced': heat}
    path.write_text(render(page), 'utf-8')
    return path


def check_looks(page):
    """Nothing is wider than the screen, asked of others, or in error."""
    width = page.viewport_size['width']
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    assert page.troubles == []
    levels = page.locator('h1, h2, h3, h4').evaluate_all(
        'all => all.map(one => +one.tagName[1])'
    )
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    nameless = '[role="img"]:not([aria-label]), img:not([alt])'
    assert page.locator(nameless).count() == 0
    for landmark in ('banner', 'navigation', 'main', 'contentinfo'):
        assert page.get_by_role(landmark).count() == 1


@pytest.mark.parametrize('num_classes', [12, 80, 260])
def test_in_a_browser(num_classes, tmp_path, open_page):
    path = noise_page(num_classes, tmp_path / 'page.html')
    assert path.stat().st_size <= MAX_BYTES
    for width in (1280, 390):
        page = open_page(path.as_uri(), width, offline=True)
        page.locator('summary').first.press('Enter')
        assert page.locator('details[open] .card').first.is_visible()
        check_looks(page)
    page.get_by_role('button', name='Open all').click()
    assert page.locator('details[open]').count() == num_classes
    if num_classes == 12:  # of 260 it takes long
        check_looks(page)
    # The class that was made to fire is found, and its cause.
    pair = page.locator('#confusions .pairs tbody tr').first
    links = pair.locator('a').evaluate_all('all => all.map(a => a.hash)')
    assert links == ['#class-4', '#class-5']


def test_by_keyboard(tmp_path, open_page):
    path = noise_page(80, tmp_path / 'page.html')
    page = open_page(path.as_uri(), offline=True)
    rows = page.locator('#table tbody tr:visible')
    page.keyboard.press('/')
    page.keyboard.type('日本語の標識 tail')
    shown = rows.locator('th').all_inner_texts()
    assert 0 < len(shown) < 20
    assert all('日本語の標識' in name for name in shown)
    said = page.get_by_role('status').inner_text()
    assert said == f'{len(shown)} of 80 classes'
    page.keyboard.press('Enter')
    assert page.locator('details[open]').count() == 1
    page.keyboard.press('/')
    page.keyboard.press('Escape')
    assert rows.count() == 80
    # Sorting, and the way from the table to a class.
    page.get_by_role('button', name='AP', exact=True).press('Enter')
    ap = page.locator('#table tbody tr td .v').all_inner_texts()
    assert ap == sorted(ap, key=float, reverse=True)
    rows.nth(3).locator('a').press('Enter')
    name = rows.nth(3).locator('a').inner_text()
    opened = page.locator('details[open] .name').all_inner_texts()
    assert name in opened
    for scheme in ('dark', 'light'):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate('getComputedStyle(document.body).color')
        light = sum(map(int, re.findall(r'\d+', colour)[:3])) > 380
        assert light == (scheme == 'dark')


@pytest.fixture(scope='module')
def page(networks, tmp_path_factory):
    """The page of a two-branch network, a stock one beside it."""
    out = tmp_path_factory.mktemp('report')
    first, second = networks
    main([*first, '--out', str(out), '--compare', *second])
    return out / 'report.html'


def test_two_networks_side_by_side(page, open_page):
    if not has_grad_cam():
        pytest.skip('needs grad-cam')
    text = page.read_text('utf-8')
    shown = open_page(page.as_uri(), 390, offline=True)
    check_looks(shown)
    shown.get_by_role('button', name='Open all').click()
    for name in ('uniform', 're-balanced'):
        looks = f'[aria-label^="Where {name} looks for"]'
        assert shown.locator(looks).count() > 20
    assert 'backbone.layer4.rebalanced.1' in text
    assert shown.locator('#changes .card').count() > 5
    assert shown.locator('#branches .card').count() > 5
    header = shown.locator('#table thead').inner_text()
    assert 'AP A' in header
    assert 'B − A' in header
    assert report_case.NAMES[2] in shown.locator('#table').inner_text()


def test_names_are_escaped(page, open_page):
    text = page.read_text('utf-8')
    assert report_case.HOSTILE not in text
    assert html.escape(report_case.HOSTILE).replace('&quot;', '&#34;') in text
    assert '{{ 7 * 7 }}' in text
    shown = open_page(page.as_uri())
    assert report_case.HOSTILE in shown.locator('#table').inner_text()
    assert shown.locator('script').count() == 1


def test_it_tells_no_folder_of_this_machine(page):
    text = page.read_text('utf-8')
    assert str(page.parents[1]) not in text
    assert not re.search(r'["\s(](/tmp|/home|/work|/root)/', text)


def test_copies_of_training_pictures(page, open_page):
    """Here the test pictures are the training pictures."""
    shown = open_page(page.as_uri())
    found = shown.locator('#duplicates').inner_text()
    assert '10 of 10 test pictures have a near-duplicate' in found
    assert shown.locator('#duplicates .card').count() == 10
    names = shown.locator('#duplicates .file').all_inner_texts()
    assert all(len(set(name.split(' and '))) == 1 for name in names)


@pytest.mark.parametrize('cam', [True, False])
def test_one_branch_and_no_training_pictures(
    cam, tmp_path, monkeypatch, capsys
):
    """Moved away, the training pictures cost a sentence."""
    if cam:
        pytest.importorskip('pytorch_grad_cam', reason='needs grad-cam')
    _, config = report_case.write_networks(tmp_path)
    checkpoint = report_case.save_network(config)
    data = tmp_path / 'data'
    entries = json.loads((data / 'test.json').read_text())
    shutil.copytree(data, tmp_path / 'data' / 'tests')
    for entry in entries['data_list']:
        entry['img_path'] = f'tests/{entry["img_path"]}'
    (data / 'test.json').write_text(json.dumps(entries))
    for path in data.glob('*.png'):
        path.unlink()
    monkeypatch.setattr(model_report, 'has_grad_cam', lambda: cam)
    main([str(config), str(checkpoint), '--out', str(tmp_path / 'out')])
    text = (tmp_path / 'out' / 'report.html').read_text('utf-8')
    assert 'The training pictures cannot be read' in text
    assert str(tmp_path) not in text
    assert 'id="branches"' not in text
    assert ('looks for' in text) == cam
    words = 'pip install "ltml_mm[report]"'
    assert (words in capsys.readouterr().err) == (not cam)


def test_other_pictures_are_not_compared(networks, tmp_path):
    (tmp_path / 'other').mkdir()
    config, _ = report_case.write_networks(tmp_path / 'other')
    path = tmp_path / 'other' / 'data' / 'test.json'
    content = json.loads(path.read_text())
    content['data_list'][2]['gt_label'] = [1]
    path.write_text(json.dumps(content))
    second = [str(config), str(report_case.save_network(config))]
    arguments = [*networks[0], '--out', str(tmp_path), '--compare', *second]
    with pytest.raises(ValueError, match='differ in the labels of picture 2'):
        main(arguments)
    content['data_list'][2]['img_path'] = '9.png'
    content['data_list'] = content['data_list'][:9]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'picture 2 \(data/2.png and'):
        main(arguments)


def test_figures():
    """The page's decisions, pictures and gaps, by hand."""
    subject = report_case.noise_subject(12)
    page = describe([subject], [''])
    found = subject.found
    for row in page['classes']:
        k, (model,) = row['id'], row['models']
        truth, said = found.targets[:, k], found.scores[:, k] >= 0.5
        assert row['name'] == subject.network.names[k]
        assert model['precision'][0] == (truth & said).sum() / said.sum()
        alarms = row['cards']['alarms']
        assert alarms[0]['score'] == found.scores[~truth, k].max()
        assert not any(one['present'] for one in alarms)
        misses = row['cards']['misses']
        assert misses[0]['score'] == found.scores[truth, k].min()
        assert misses[0]['branches']['uniform'] == pytest.approx(
            found.branches['uniform'][misses[0]['image'], k]
        )
    counts = [row['train_images'] for row in page['classes']]
    assert counts == sorted(counts, reverse=True)
    top = page['disagreements']['cards'][0]['branches']
    gap = found.branches['rebalanced'] - found.branches['uniform']
    shown = abs(top['rebalanced'] - top['uniform'])
    assert shown == pytest.approx(np.abs(gap).max())


def test_very_many_classes(tmp_path):
    """Those with the lowest AP have pictures; the table has all."""
    path = noise_page(1000, tmp_path / 'page.html')
    assert path.stat().st_size <= MAX_BYTES
    text = path.read_text('utf-8')
    assert text.count('<details id="class-') == MAX_DETAILS
    assert len(set(re.findall('id="class-([0-9]+)"', text))) == 1000


def test_without_counts():
    subject = report_case.noise_subject(12)
    for one in subject.network.class_info:
        one.update(group=None, train_images=None)
    page = describe([subject], [''])
    assert [row['name'] for row in page['groups']] == ['all']
    page['duplicates'] = {'note': ''}
    page['cam'] = add_pictures(page, subject, cam=False)
    assert 'The training counts are not known' in render(page)


def test_thresholds_of_a_file(networks, tmp_path):
    network = load_network(*networks[0], 'cpu')
    rows = [{**one, 'threshold': 0.9} for one in network.class_info]
    path = tmp_path / 'careful.json'
    for digest in (network.digest, 'of another'):
        model = {'name': 'x.pth', 'sha256': digest}
        found = Thresholds(
            model, 'precision=0.9', {'kind': 'validation'}, rows
        )
        write_thresholds(path, found)
        command = [*networks[0], '--out', str(tmp_path), '--no-cam']
        command += ['--train-images', '0', '--thresholds', str(path)]
        if digest != network.digest:
            with pytest.raises(ValueError, match='of another model'):
                main(command)
            continue
        main(command)
        text = (tmp_path / 'report.html').read_text('utf-8')
        assert 'One threshold a class, for precision=0.9' in text
        assert text.count('<dt>Threshold</dt><dd>0.900</dd>') == len(rows)


def test_curve_against_sklearn():
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.4
    scores = np.round(rng.random(60), 1)  # with ties
    precision, recall, _ = precision_recall_curve(truth, scores)
    expected = set(zip(recall.round(6), precision.round(6), strict=True))
    points = np.round(curve(scores, truth), 6)
    assert {tuple(point) for point in points} <= expected
    assert len(points) == truth.sum()
    assert curve(scores, np.zeros(60, bool)) == []


def test_arguments(networks, tmp_path):
    config = Path(networks[0][0]).with_name('none.py')
    config.write_text(f"_base_ = '{networks[0][0]}'\ntest_dataloader = None")
    with pytest.raises(ValueError, match='no test_dataloader'):
        main([str(config), networks[0][1], '--out', str(tmp_path / 'out')])
