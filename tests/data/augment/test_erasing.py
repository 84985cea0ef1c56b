"""A rectangle or square becomes the mean color of the batch; boxes have the areas and ratios asked for."""

import pytest
import torch

from src.data.augment.erasing import Cutout, RandomErasing, box_mask, draw_boxes


@pytest.fixture
def images() -> torch.Tensor:
    """Return color images with channel means of 100, 20 and 220, values that none of their pixels has."""
    torch.manual_seed(0)
    offsets = torch.tensor([100, 20, 220]).view(1, 3, 1, 1)
    halves = torch.arange(3 * 8 * 12).view(3, 8, 12) % 9 + 1
    return torch.stack([halves, -halves] * 600).add(offsets).byte()


def erased(images: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Return where pixels became the mean, (N, H, W); check that all others are unchanged."""
    mean = torch.tensor([100, 20, 220]).view(1, 3, 1, 1)
    filled = (result == mean).all(1)
    assert torch.where(filled[:, None], images, result).equal(images)
    return filled


def sides(filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return height and width, each (N,), of the filled pixels; check that they are a rectangle without holes."""
    rows, columns = filled.any(2), filled.any(1)
    assert filled.equal(rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        assert (line.int().diff(dim=1).clamp(min=0).sum(1) + line[:, 0].int() <= 1).all()
    return rows.sum(1), columns.sum(1)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_fraction_p_of_the_images_loses_one_rectangle(images, p):
    height, width = sides(erased(images, RandomErasing(p, (0.1, 0.5), (0.5, 2))(images)))
    hit = height > 0
    assert hit.sum() == pytest.approx(1200 * p, abs=70 * (0 < p < 1))  # 4.4 standard deviations
    area = (height * width)[hit] / 96
    assert ((area > 0.05) & (area < 0.6)).all()
    assert p == 0 or len(area.unique()) > 8


def test_a_cutout_is_a_square_cut_off_at_the_border(images):
    filled = erased(images, Cutout(4)(images))
    height, width = sides(filled)
    sizes = torch.stack([height, width], 1).unique(dim=0)
    assert sizes.tolist() == [[h, w] for h in (2, 3, 4) for w in (2, 3, 4)]
    assert filled.any(0).all()
    uncut = ((height == 4) & (width == 4)).float().mean()
    assert uncut == pytest.approx(5 * 9 / 96, abs=0.065)  # centers 2..6 of 8 and 2..10 of 12; 4.5 standard deviations


def test_float_images_are_filled_with_the_exact_mean():
    images = torch.rand(6, 2, 5, 5) * 255
    result = Cutout(5)(images)
    mean = images.mean((0, 2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(result, torch.where(result == images, images, mean))
    assert (result != images).any((1, 2, 3)).all()


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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomErasing(1.1), r"p must be in \[0, 1\], got 1.1"),
        (lambda: RandomErasing(area=(0.5, 1.5)), r"area must be two numbers 0 < low <= high <= 1, got \(0.5, 1.5\)"),
        (lambda: RandomErasing(ratio=(3, 2)), r"ratio must be two numbers 0 < low <= high <= inf, got \(3, 2\)"),
        (lambda: Cutout(0), "size must be at least 1, got 0"),
    ],
)
def test_invalid_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
