"""Operations and magnitudes are those of torchvision; each sample draws its own."""

import pytest
import torch
from torchvision.transforms import v2

from src.data.augment import policy
from src.data.augment.policy import OPERATIONS, RandAugment, TrivialAugment, apply_operations

SIZE = (11, 14)


def photos(n: int, channels: int = 3) -> torch.Tensor:
    """Return smooth images that do not use the whole range of values."""
    torch.manual_seed(0)
    coarse = torch.rand(n, channels, 4, 4) * 180 + 30
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(5, 240).byte()


def torchvision_operation(transform: torch.nn.Module, image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    return transform._apply_image_or_video_transform(image, name, magnitude, transform.interpolation, transform._fill)


def limits_of(augment: torch.nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the largest magnitudes that an augmentation passes to its operations."""
    passed: list[list[float]] = []
    monkeypatch.setattr(policy, "apply_operations", lambda images, _, limits: passed.append(limits) or images)
    augment(images)
    return passed[0]


def fraction_different(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the fraction of values that differ by more than rounding."""
    return ((result - expected.float()).abs() > 0.51).float().mean().item()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("ours", "oracle"), [(TrivialAugment(), v2.TrivialAugmentWide()), (RandAugment(), v2.RandAugment())]
)
def test_magnitudes_are_those_of_torchvision(ours, oracle, name, monkeypatch):
    magnitudes = oracle._AUGMENTATION_SPACE[name][0](31, *SIZE)
    result = limits_of(ours, photos(1), monkeypatch)[list(OPERATIONS).index(name)] * torch.arange(31) / 30
    if name == "Posterize":  # torchvision counts the bits that remain
        result = 8 - result.round()
    if name == "Solarize":  # torchvision gives the threshold
        result = 1 - result
    torch.testing.assert_close(result, torch.zeros(31) if magnitudes is None else magnitudes.float())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "limit"), [*zip(OPERATIONS, policy.max_magnitudes(0.9, (9.0, 9.0), 180, 0.95, 6), strict=True)]
)
def test_each_operation_equals_that_of_torchvision_per_sample(name, limit, channels):
    images, oracle = photos(30, channels), v2.TrivialAugmentWide()
    magnitudes = (torch.rand(30) * 2 - 1) * limit
    expected = magnitudes
    if name == "Posterize":
        expected = 8 - magnitudes.abs().round()
    if name == "Solarize":
        expected = 1 - magnitudes.abs()
    results = OPERATIONS[name](images, magnitudes)
    assert results.dtype == torch.uint8
    scale = 255 if name in ("Brightness", "Color", "Contrast", "Sharpness") else 1  # torchvision truncates uint8 there
    tolerance = 0.01 if name in ("ShearX", "ShearY", "Rotate") else 1e-9  # nearest neighbor: ties
    for image, result, magnitude in zip(images, results, expected.tolist(), strict=True):
        other = torchvision_operation(oracle, image / 255 if scale == 255 else image, name, magnitude) * scale
        assert fraction_different(result, other) < tolerance


def test_operations_have_torchvisions_names_and_order():
    assert (
        list(OPERATIONS) == list(v2.TrivialAugmentWide._AUGMENTATION_SPACE) == list(v2.RandAugment._AUGMENTATION_SPACE)
    )


def test_each_result_is_one_of_the_operations_on_its_image():
    images = photos(40)
    strengths = torch.cat([torch.arange(31), -torch.arange(31)]) / 30
    space = [*zip(OPERATIONS.values(), policy.max_magnitudes(0.99, (32.0, 32.0), 135.0, 0.99, 6.0), strict=True)]
    for image, result in zip(images, TrivialAugment()(images), strict=True):
        copies = image.expand(62, -1, -1, -1)
        candidates = torch.cat([operation(copies, strengths * limit) for operation, limit in space])
        assert ((candidates.int() - result).abs() <= 1).flatten(1).all(1).any()


def recording(name: str):
    """Return an operation that writes its position and magnitude into the first row of the image."""
    position = list(OPERATIONS).index(name)

    def operation(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
        images = images.clone()
        images[:, 0, 0, 0], images[:, 0, 0, 1] = position, (100 + magnitude).round().byte()
        return images

    return operation


def test_operations_magnitudes_and_signs_are_uniform_and_independent(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(policy, "OPERATIONS", {name: recording(name) for name in OPERATIONS})
    monkeypatch.setattr(policy, "max_magnitudes", lambda *_: [60.0] * 14)
    number = torch.arange(7000)
    images = torch.zeros(7000, 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 1, 0], images[:, 0, 1, 1] = number // 100, number % 100
    operation, magnitude, high, low = TrivialAugment()(images).flatten(1).long().unbind(1)
    assert (high * 100 + low).equal(number)
    strength, sign = (magnitude - 100).abs() // 2, magnitude > 100
    assert operation.bincount(minlength=14).sub(500).abs().max() < 105  # 4.8 standard deviations
    assert strength.bincount(minlength=31).sub(226).abs().max() < 70  # 4.7
    assert sign.sum() == pytest.approx(7000 * 30 / 31 / 2, abs=200)  # 4.8
    correlation = torch.stack([number, operation, strength, sign])[:, strength > 0].double().corrcoef()
    assert (correlation - torch.eye(4)).abs().max() < 0.06  # 5


def test_rand_augment_applies_num_ops_operations_at_its_magnitude(monkeypatch):
    passed = []
    monkeypatch.setattr(policy, "apply_operations", lambda images, strength, _: passed.append(strength) or images + 1)
    result = RandAugment(3, 12)(torch.zeros(5, 1, 2, 2, dtype=torch.uint8))
    assert result.eq(3).all()
    assert all(strength.equal(torch.full((5,), 0.4)) for strength in passed)


def test_float_images_are_rounded_first():
    images = photos(40)
    torch.manual_seed(1)
    expected = TrivialAugment()(images)
    torch.manual_seed(1)
    result = TrivialAugment()(images + torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4)
    assert result.dtype == torch.float32
    assert result.equal(expected.float())


def test_an_operation_drawn_by_no_sample_is_not_run(monkeypatch):
    calls = []
    spied = {name: lambda images, _, name=name: calls.append(name) or images for name in OPERATIONS}
    monkeypatch.setattr(policy, "OPERATIONS", spied)
    apply_operations(photos(1), torch.ones(1), [1.0] * 14)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandAugment(0), "num_ops must be at least 1, got 0"),
        (lambda: RandAugment(magnitude=31), r"magnitude must be in \[0, 30\], got 31"),
    ],
)
def test_invalid_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
