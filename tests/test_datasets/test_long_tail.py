"""Annotation files: what is read, what is counted, what is refused."""

import copy
import json
import pickle
from pathlib import Path

import pytest

from ltml_mm import datasets
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES

SHARED = Path(__file__).parents[3] / 'shared/data'
CONTENT = {
    'metainfo': {'classes': ['cat', 'dog', 'person']},
    'data_list': [
        {'img_path': '0.jpg', 'gt_label': [1, 2]},
        {'img_path': '1.jpg', 'gt_label': []},
        {'img_path': '2.jpg', 'gt_label': [2]},
    ],
}
COUNTS = {'class_counts': [0, 1, 2], 'num_train_images': 3}


@pytest.fixture
def make(tmp_path):
    """Writes content (altered by a function) and opens it."""

    def make(alter=None, kind=datasets.LongTailMultiLabelDataset, **kwargs):
        content = copy.deepcopy(CONTENT)
        if alter is not None:
            alter(content)
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / 'a.json').write_text(text)
        kwargs = {'pipeline': [], **kwargs}
        return kind(ann_file='a.json', data_root=str(tmp_path), **kwargs)

    return make


def put(key, value):
    return lambda content: content['metainfo'].update({key: value})


# -- what is read and counted ------------------------------------------------


def test_counts_are_computed(make):
    dataset = make()
    assert {**dataset.metainfo, **COUNTS} == dataset.metainfo
    assert dataset.metainfo['classes'] == ['cat', 'dog', 'person']
    assert dataset.label_table.labels.tolist() == [1, 2, 2]
    assert dataset.get_cat_ids(0) == [1, 2]


@pytest.mark.parametrize('serialize', [True, False])
def test_counts_follow_subsets(make, serialize):
    dataset = make(serialize_data=serialize)
    subset = dataset.get_subset([2, 1])
    assert subset.metainfo['class_counts'] == [0, 0, 1]
    assert subset.metainfo['num_train_images'] == 2
    assert subset.label_table.labels.tolist() == [2]
    assert dataset.metainfo['class_counts'] == [0, 1, 2]
    dataset.get_subset_(1)
    assert dataset.metainfo['class_counts'] == [0, 1, 1]
    assert dataset.label_table.num_images == 1


def test_counts_of_indices_are_their_own(make):
    dataset = make(lambda c: c['metainfo'].update(COUNTS), indices=[0])
    assert dataset.metainfo['class_counts'] == [0, 1, 1]
    assert dataset.metainfo['num_train_images'] == 1


def test_a_test_set_keeps_the_training_counts(make):
    dataset = make(put('class_counts', [50, 3, 7]), test_mode=True)
    assert dataset.metainfo['class_counts'] == [50, 3, 7]
    assert 'num_train_images' not in dataset.metainfo
    assert len(dataset.label_table.offsets) == 4


def test_counts_given_win_for_a_test_set(make):
    given = dict(metainfo=dict(class_counts=[9, 8, 7]), test_mode=True)
    dataset = make(put('class_counts', [1, 1, 1]), **given)
    assert dataset.metainfo['class_counts'] == [9, 8, 7]


def test_lazy_init_reads_nothing(tmp_path):
    dataset = datasets.LongTailMultiLabelDataset(
        ann_file=str(tmp_path / 'later.json'), pipeline=[], lazy_init=True
    )
    assert dataset.label_table is None
    with pytest.raises(FileNotFoundError, match=r'later\.json'):
        dataset.full_init()
    # A failed attempt leaves nothing behind.
    (tmp_path / 'later.json').write_text(json.dumps(CONTENT))
    assert len(dataset) == 3
    assert dataset.metainfo['class_counts'] == [0, 1, 2]


def test_prefix_and_root_are_joined(make, tmp_path):
    info = make(data_prefix='images').get_data_info(0)
    assert info['img_path'] == f'{tmp_path}/images/0.jpg'


@pytest.mark.parametrize('path', ['a/../1.jpg', '..a/1.jpg', './1.jpg'])
def test_paths_that_stay_inside_are_fine(make, path):
    assert len(make(entry(1, img_path=path))) == 3


def test_the_prefix_itself_may_leave_the_root(make, tmp_path):
    # It stands in the config, as VOC-LT's own '../VOCdevkit' does.
    info = make(data_prefix='../images').get_data_info(0)
    assert info['img_path'] == f'{tmp_path}/../images/0.jpg'


def set_categories(rows):
    return lambda content: content.update(metainfo={'categories': rows})


def test_categories_of_openmmlab_2_name_the_classes(make):
    pairs = [(2, 'c'), (0, 'a'), (1, 'b')]
    alter = set_categories([dict(id=i, category_name=n) for i, n in pairs])
    assert make(alter).metainfo['classes'] == ['a', 'b', 'c']
    with pytest.raises(ValueError, match="class 0 is 'a' in place of 'b'"):
        make(alter, classes=['b', 'a', 'c'])


def test_names_come_from_the_argument_where_the_file_has_none(make):
    dataset = make(
        lambda c: c['metainfo'].clear(), classes=['cat', 'dog', 'person']
    )
    assert tuple(dataset.CLASSES) == ('cat', 'dog', 'person')


def test_further_metainfo_is_kept(make):
    dataset = make(put('source', 'file'), metainfo=dict(task='x'))
    assert dataset.metainfo['source'] == 'file'
    assert dataset.metainfo['task'] == 'x'


def test_voc_names_hold_for_its_files(make):
    dataset = make(
        put('classes', list(VOC_CLASSES)), kind=datasets.VOCLTDataset
    )
    assert len(dataset.metainfo['class_counts']) == 20
    with pytest.raises(ValueError, match=r'expected \(20\): class 0'):
        make(kind=datasets.VOCLTDataset)


def test_names_are_those_of_the_published_sets():
    file = SHARED / 'class_names.json'
    if not file.exists():
        pytest.skip(f'reference data not found: {file}')
    names = json.loads(file.read_text())
    assert names == {'voc': list(VOC_CLASSES), 'coco': list(COCO_CLASSES)}


# -- what is refused ---------------------------------------------------------


def entry(index, **values):
    return lambda content: content['data_list'][index].update(values)


def without(index, key):
    return lambda content: content['data_list'][index].pop(key)


@pytest.mark.parametrize(
    ('alter', 'message'),
    [
        (entry(2, gt_label=[0, 3]), r'entry 2 .*2\.jpg\): label 3 is not'),
        (entry(0, gt_label=[-1]), 'entry 0 .* label -1 is not'),
        (entry(0, gt_label=[1.0]), 'entry 0 .* label 1.0 is not'),
        (entry(0, gt_label=[True]), 'entry 0 .* label True is not'),
        (entry(1, gt_label=[2, 2]), r'entry 1 .* repeats in \[2, 2\]'),
        (entry(1, gt_label=2), 'entry 1 .* must be a list'),
        (without(1, 'gt_label'), 'entry 1 .* must be a list .* got None'),
        (without(2, 'img_path'), 'entry 2 .*"img_path" must be a text'),
        (entry(2, img_path=5), 'entry 2 .*"img_path" must be a text, got 5'),
        (lambda c: c['data_list'].insert(1, 7), 'entry 1 .* be an object'),
        (lambda c: c['data_list'].clear(), '"data_list" holds no image'),
        (lambda c: c.pop('data_list'), 'not an annotation file'),
        (lambda c: c.update(metainfo=[]), 'not an annotation file'),
        (lambda c: c['metainfo'].clear(), 'must be a list of names, got None'),
        (put('classes', 'abc'), 'must be a list of names'),
        (put('classes', [1, 2, 3]), 'must be a list of names'),
        (put('classes', ['a', 'b', 'a']), 'class names repeat: a'),
        (put('class_counts', [0, 1, 1]), r'says \[0, 1, 1\], but .* \[0, 1'),
        (
            lambda c: c['metainfo'].update(COUNTS, num_train_images=99),
            'says 99, but its images count 3',
        ),
        (set_categories([{'id': 1}]), '"categories" of "metainfo" must'),
        (put('class_counts', [0, 1]), '2 entries for 3 classes'),
        (put('class_counts', 4), '"class_counts" must be a list'),
        (put('class_counts', [0, None, 2]), 'count of class 1 must be'),
    ],
)
def test_bad_files_are_named(make, alter, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(alter)
    assert 'a.json' in str(caught.value)


@pytest.mark.parametrize(
    ('given', 'difference'),
    [
        # The same names in another order would silently swap labels.
        (['cat', 'person', 'dog'], "class 1 is 'dog' in place of 'person'"),
        (['cat', 'dog'], "class 2, 'person', is one too many"),
        (['cat', 'dog', 'person', 'x'], "class 3, 'x', is missing"),
    ],
)
def test_other_names_than_expected_are_refused(make, given, difference):
    with pytest.raises(ValueError, match=difference) as caught:
        make(classes=given)
    assert f'expected ({len(given)}): ' in str(caught.value)
    assert 'Correct the file, or' in str(caught.value)


def test_a_long_list_of_other_names_is_not_printed(make):
    names = [*COCO_CLASSES[:-1], 'broom']
    with pytest.raises(ValueError, match='class 79 is') as caught:
        make(put('classes', names), kind=datasets.COCOLTDataset)
    assert sum(repr(name) in str(caught.value) for name in names) == 1


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'{"metainfo": \n {,}}', 'not valid JSON: .* line 2 column 3'),
        (b'', 'not valid JSON: .* line 1 column 1'),
        (b'[]', 'not an annotation file'),
        (b'{"metainfo": "\xff"}', 'not valid JSON'),
        (b'[' * 100_000, 'not valid JSON'),
        (b'9' * 5000, 'not valid JSON'),
        (b'{"a": "NaN", "b": [NaN]}', 'JSON: NaN is not a number of JSON'),
        (b'{"a": {"b": 1}, "b": 1, "a": 2}', r"key repeats in .*'a'"),
        (b'[{"\\u0062": 1, "b": 2}]', r"key repeats in \[\('b', 1\)"),
    ],
)
def test_broken_json_is_named(tmp_path, data, message):
    file = tmp_path / 'broken.json'
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.LongTailMultiLabelDataset(ann_file=str(file), pipeline=[])
    assert str(file) in str(caught.value)


def test_pickles_are_not_opened(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / 'executed',))

    file = tmp_path / 'train.pkl'
    file.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ValueError, match='must be JSON'):
        datasets.LongTailMultiLabelDataset(ann_file=str(file), pipeline=[])
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize(
    ('kind', 'tool'),
    [
        (datasets.LongTailMultiLabelDataset, 'custom'),
        (datasets.VOCLTDataset, 'voc_lt'),
        (datasets.COCOLTDataset, 'coco_lt'),
    ],
)
def test_a_missing_file_is_named_with_what_writes_it(tmp_path, kind, tool):
    words = rf'nowhere\.json: .*dataset_converters/{tool}\.py writes it'
    with pytest.raises(FileNotFoundError, match=words):
        kind(ann_file='nowhere.json', data_root=str(tmp_path), pipeline=[])
