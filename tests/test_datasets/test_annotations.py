"""The compact table of a dataset's labels."""

import numpy as np
import pytest

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets import LabelTable, read_labels

LISTS = [[2, 0], [], [1, 2], [2], []]


def test_counts_against_a_loop():
    table = LabelTable.from_lists(LISTS)
    expected = [sum(k in row for row in LISTS) for k in range(4)]
    assert table.counts(4).tolist() == expected == [1, 1, 3, 0]
    assert table.statistics(4) == ClassStatistics(tuple(expected), 5)
    with pytest.raises(ValueError, match='label 2 is not an integer'):
        table.statistics(2)


def test_images_by_class_against_a_loop():
    rng = np.random.default_rng(0)
    matrix = rng.random((40, 9)) < 0.2
    matrix[:, 4] = False
    lists = [rng.permutation(np.flatnonzero(row)).tolist() for row in matrix]
    table = LabelTable.from_lists(lists)
    assert (table.matrix(9) == matrix).all()
    images, offsets = table.images_by_class(9)
    for label in range(9):
        members = images[offsets[label] : offsets[label + 1]]
        assert members.tolist() == np.flatnonzero(matrix[:, label]).tolist()
    assert images.dtype == np.int64
    assert len(images) == matrix.sum()


@pytest.mark.parametrize('lists', [[], [[], []]])
def test_no_labels_at_all(lists):
    table = LabelTable.from_lists(lists)
    assert table.num_images == len(lists)
    assert table.counts(2).tolist() == [0, 0]
    images, offsets = table.images_by_class(2)
    assert (len(images), offsets.tolist()) == (0, [0, 0, 0])


def test_a_negative_label_names_its_image():
    with pytest.raises(ValueError, match='image 3 has the label -2'):
        LabelTable.from_lists([[0, 1], [], [4], [3, -2], [1]])


class Foreign:
    """The least that MMPretrain's wrappers promise."""

    def __len__(self):
        return len(LISTS)

    def get_cat_ids(self, index):
        return LISTS[index]


def test_any_dataset_with_get_cat_ids_is_read():
    table = read_labels(Foreign())
    assert table.labels.tolist() == [2, 0, 1, 2, 2]
    assert table.offsets.tolist() == [0, 2, 2, 4, 5, 5]


def test_a_table_that_is_there_is_not_read_again():
    dataset = Foreign()
    dataset.label_table = LabelTable.from_lists([[0]])
    assert read_labels(dataset) is dataset.label_table


def test_a_dataset_without_labels_is_refused():
    with pytest.raises(TypeError, match=r'list has no get_cat_ids'):
        read_labels([1, 2])
