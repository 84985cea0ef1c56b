"""Boxes lie where they should, inside the image, with the areas and ratios asked for."""

import pytest
import torch

from src.data.augment.boxes import box_mask, draw_boxes


def test_a_box_mask_is_true_in_the_box_of_each_sample():
    torch.manual_seed(0)
    n, rows, columns = 40, 5, 7
    top, left = torch.randint(-3, rows + 2, (n,)), torch.randint(-3, columns + 2, (n,))
    height, width = torch.randint(0, 6, (n,)), torch.randint(0, 8, (n,))
    mask = box_mask(top, left, height, width, torch.Size([n, 3, rows, columns]))
    assert (mask.dtype, mask.shape) == (torch.bool, (n, 1, rows, columns))
    for i in range(n):
        for y in range(rows):
            for x in range(columns):
                inside = top[i] <= y < top[i] + height[i] and left[i] <= x < left[i] + width[i]
                assert mask[i, 0, y, x] == inside


def test_boxes_lie_inside_the_image():
    torch.manual_seed(0)
    images = torch.empty(2000, 1, 6, 9)
    top, left, height, width = draw_boxes(images, (0.1, 0.9), (0.5, 2))
    for start, size, length in ((top, height, 6), (left, width, 9)):
        assert start.equal(start.round())
        assert size.equal(size.round())
        assert (start.min() >= 0, size.min() >= 1, (start + size).max() <= length) == (True, True, True)


def test_all_positions_are_equally_likely():
    torch.manual_seed(0)
    top, left, height, width = draw_boxes(torch.empty(3000, 1, 6, 9), (8 / 54, 8 / 54), (2, 2))
    assert height.eq(2).all()
    assert width.eq(4).all()
    positions = (top * 6 + left).long().bincount(minlength=30)  # 5 rows by 6 columns
    assert positions.sub(100).abs().max() < 48  # 4.9 standard deviations


def test_areas_and_ratios_of_large_boxes_cover_their_ranges():
    torch.manual_seed(0)
    _, _, height, width = draw_boxes(torch.empty(4000, 1, 400, 600), (0.1, 0.3), (0.5, 2))
    area, ratio = height * width / (400 * 600), (width / height).log2()
    assert (area.min(), area.max(), area.mean()) == tuple(pytest.approx(e, abs=0.004) for e in (0.1, 0.3, 0.2))
    assert (ratio.min(), ratio.max(), ratio.mean()) == tuple(pytest.approx(e, abs=0.04) for e in (-1, 1, 0))


def test_sides_longer_than_the_image_are_cut_to_it():
    _, _, height, width = draw_boxes(torch.empty(50, 1, 4, 40), (1.0, 1.0), (0.5, 0.5))
    assert height.eq(4).all()
    assert width.eq(9).all()  # sqrt(160 / 2)
