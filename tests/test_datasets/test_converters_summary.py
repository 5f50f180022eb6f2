"""The summary of a conversion, and what looks wrong with labels."""

import re
import warnings

import pytest
from own_data import convert, draw, load, many

from ltml_mm.datasets.splits import ParetoRecipe


def write(root, cells, header='path,labels'):
    for index in range(len(cells)):
        draw(root / f'{index}.jpg')
    rows = [f'{index}.jpg,"{cell}"' for index, cell in enumerate(cells)]
    (root / 'x.csv').write_text('\n'.join([header, *rows]))
    return root / 'x.csv'


def warned(root, out, cells, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        convert(write(root, cells), out, output=['force'], **options)
    return [str(warning.message).split('x.csv: ')[-1] for warning in caught]


def test_the_summary_counts(tmp_path):
    cells = ['cat;dog', 'cat', 'cat;dog;emu', '', 'cat;gnu', '']
    summary = convert(write(tmp_path, cells), tmp_path / 'out')
    lines = [line.strip() for line in summary.splitlines()]
    assert lines[0].endswith(
        ': 6 images to train, 0 to test, 4 classes (0 head, 0 medium, 4 tail)'
    )
    assert lines[3:5] == [
        'labels an image: 1.33 on average, at most 3; images without a '
        'label: 2',
        'largest classes: cat 4, dog 2; smallest: emu 1, gnu 1',
    ]


def test_ordinary_labels_are_not_suspicious(tmp_path):
    cells = ['cat;dog', 'cat', 'dog', 'emu', 'black & white;cat', 'r/k;dog']
    assert warned(tmp_path, tmp_path / 'out', cells) == []


SUSPICIOUS = [
    (['clear primary', 'haze primary', 'haze', 'clear', 'haze'],
     r"separator .*: 'clear primary' \(.*:2\), 'haze primary' \(.*:3\)$"),
    (['a b', 'c d', 'e f', 'g h', 'i j', 'x', 'x'],
     '6 classes, of which 5 appear once .*: a b, c d, e f, g h, i j$'),
    (['cat', 'Cat', 'dog', 'c at'], "look alike: 'Cat' and 'c at' and 'cat'$"),
    (['cafe\u0301', 'caf\xe9', 'dog'],
     "look alike: 'cafe\u0301' and 'caf\xe9'$"),
    (['3 14', '7', '5'], r"hold a separator .*: '3 14' \(.*x\.csv:2\)$"),
    (['[3 14]', '7', '5'], r"hold a separator .*: '3 14' \("),
    (['cat;dog', 'cat', 'cat;emu'], 'classes in every image: cat$'),
    (['cat', 'dog;cat', 'dog;cat', 'emu', 'cat'],
     r'always come with another: dog \(2 images\) with cat$'),
    (['hot dog, with mustard', 'dog', 'cat'],
     r"hold a separator \(.*: 'hot dog, with mustard' \(.*:2\)$"),
    (['cat/dog', 'dog', 'cat', 'emu'],
     r"hold a separator .*: 'cat/dog' \(.*x\.csv:2\)$"),
]  # fmt: skip


@pytest.mark.parametrize(('cells', 'told'), SUSPICIOUS)
def test_suspicious_labels_are_named(tmp_path, cells, told):
    found = warned(tmp_path, tmp_path / 'out', cells)
    assert len(found) == 1
    assert re.search(told, found[0])


def test_a_wrong_separator_is_seen(tmp_path):
    cells = ['cat;dog', 'dog;emu', 'emu;cat', 'cat;emu', 'dog;cat', 'emu;dog']
    told = warned(tmp_path, tmp_path / 'out', cells, table={'separator': ','})
    assert told[0].startswith('6 classes, of which 6 appear once')
    assert 'labels that hold a separator' in told[1]


def test_the_first_ten_of_many_are_named(tmp_path):
    cells = [f'a{k} b{k}' for k in range(25)]
    told = warned(tmp_path, tmp_path / 'out', cells)
    assert told[0].endswith('a17 b17, and 15 more')


def test_a_long_tail_tells_what_it_drew_by_name(tmp_path):
    source = many(tmp_path)
    recipe = ParetoRecipe(100, min_count=60, shape=3.0)
    summary = convert(source, tmp_path / 'out', recipe=recipe)
    split = load(tmp_path / 'out' / 'split.json')
    counts, targets = split['class_counts'], recipe.targets(3)
    told = re.search(r'images \(target\) of a class: (.*)', summary)[1]
    found = re.findall(r'(\w+) (\d+) \((\d+)\)', told)
    assert {name: int(count) for name, count, _ in found} == counts
    assert [int(target) for *_, target in found] == targets
    assert f'holds {split["num_train_images"]} of 400 images' in summary
    unreached = re.search(r'out of reach: (.*)', summary)[1]
    assert f'emu (has {counts["emu"]}, target 60)' in unreached
    assert 'cat' not in unreached


def test_the_printed_command_fits_the_parts(tmp_path):
    source = write(tmp_path, ['cat', 'dog', 'cat', 'dog', 'cat', 'dog'])
    without = convert(source, tmp_path / 'out')
    assert 'no test set: --test-fraction' in without
    assert 'ltml train ltml_custom --no-validate --data ' in without
    for number, part in enumerate(({'test': 0.4}, {'val': 0.4})):
        summary = convert(source, tmp_path / f'out{number}', **part)
        assert 'no test set' not in summary
        assert 'ltml train ltml_custom --data ' in summary


def test_many_classes_without_a_test_image_are_cut(tmp_path):
    write(tmp_path, [f'class {n}' for n in range(12)])
    (tmp_path / 'test.csv').write_text('path,labels\n12.jpg,class 0')
    draw(tmp_path / '12.jpg')
    with pytest.warns(UserWarning, match='test.json: .* and 1 more$'):
        convert(
            tmp_path / 'x.csv',
            tmp_path / 'out',
            test=str(tmp_path / 'test.csv'),
        )
