import base64
import io

import numpy as np
import torch
from PIL import Image
from report_case import NoisePictures

from ltml_mm.inspection.pictures import LADDER, fit, heat_uri, shrink


def decode(uri, kind):
    head, _, text = uri.partition(',')
    assert head == f'data:image/{kind};base64'
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_shrink_gives_rgb():
    image = torch.zeros(3, 400, 300, dtype=torch.uint8)
    image[0] = 250  # blue comes first
    pixels = shrink(image)
    assert pixels.shape == (160, 120, 3)
    assert pixels[80, 60].tolist() == [0, 0, 250]


def test_a_budget_is_kept_and_used():
    pictures = NoisePictures()
    pixels = {i: shrink(pictures[i]['inputs']) for i in range(30)}
    sides = []
    for budget in (130_000, 60_000, 25_000):
        uris = fit(pixels, budget)
        assert list(uris) == list(pixels)
        assert budget / 3 < sum(map(len, uris.values())) <= budget
        sides.append(max(decode(uris[0], 'webp').size))
    assert sides[0] == LADDER[0][0] > sides[1] > sides[2]
    few = fit(pixels, 3_000)
    assert 0 < len(few) < 30
    assert sum(map(len, few.values())) <= 3_000
    assert fit(pixels, -5) == {}


def test_a_map_covers_where_it_is_high():
    values = np.linspace(0, 1, 12).reshape(3, 4)
    uri = heat_uri(values)
    assert len(uri) < 600
    picture = decode(uri, 'png').convert('RGBA')
    assert picture.size == (4, 3)
    cover = np.asarray(picture)[..., 3].ravel().astype(int)
    assert cover[0] == 0
    assert (np.diff(cover) > 0).all()
    red, _, blue, _ = np.asarray(picture)[-1, -1].astype(int)
    assert red > blue + 50  # the highest is red, in turbo
