"""Operations and their strengths are torchvision's; each sample draws its own."""

import pytest
import torch
from torchvision.transforms import v2

from src.data.augment import policy
from src.data.augment.policy import OPERATIONS, RandAugment, TrivialAugment, operate

SIZE = (11, 14)


def photos(n: int, channels: int = 3) -> torch.Tensor:
    """Return smooth images that do not use the whole range of values."""
    torch.manual_seed(0)
    coarse = torch.rand(n, channels, 4, 4) * 180 + 30
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(5, 240).byte()


def theirs(transform: torch.nn.Module, image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    return transform._apply_image_or_video_transform(image, name, magnitude, transform.interpolation, transform._fill)


def reach_of(augment: torch.nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the largest magnitudes that an augmentation gives to its operations."""
    given: list[list[float]] = []
    monkeypatch.setattr(policy, "operate", lambda images, _, reach: given.append(reach) or images)
    augment(images)
    return given[0]


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the share of values that differ by more than rounding."""
    return ((found - expected.float()).abs() > 0.51).float().mean().item()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("ours", "oracle"), [(TrivialAugment(), v2.TrivialAugmentWide()), (RandAugment(), v2.RandAugment())]
)
def test_strengths_are_those_of_torchvision(ours, oracle, name, monkeypatch):
    magnitudes = oracle._AUGMENTATION_SPACE[name][0](31, *SIZE)
    found = reach_of(ours, photos(1), monkeypatch)[list(OPERATIONS).index(name)] * torch.arange(31) / 30
    if name == "Posterize":  # theirs are the bits that are left
        found = 8 - found.round()
    if name == "Solarize":  # theirs is the threshold
        found = 1 - found
    torch.testing.assert_close(found, torch.zeros(31) if magnitudes is None else magnitudes.float())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "most"), [*zip(OPERATIONS, policy.largest(0.9, (9.0, 9.0), 180, 0.95, 6), strict=True)]
)
def test_each_operation_is_that_of_torchvision_by_each_samples_own_magnitude(name, most, channels):
    images, oracle = photos(30, channels), v2.TrivialAugmentWide()
    magnitudes = (torch.rand(30) * 2 - 1) * most
    expected = magnitudes
    if name == "Posterize":
        expected = 8 - magnitudes.abs().round()
    if name == "Solarize":
        expected = 1 - magnitudes.abs()
    found = OPERATIONS[name](images, magnitudes)
    assert found.dtype == torch.uint8
    floats = name in ("Brightness", "Color", "Contrast", "Sharpness")  # torchvision truncates those of whole numbers
    for image, result, magnitude in zip(images, found, expected.tolist(), strict=True):
        other = theirs(oracle, image / 255, name, magnitude) * 255 if floats else theirs(oracle, image, name, magnitude)
        assert apart(result, other) < (0.01 if name in ("ShearX", "ShearY", "Rotate") else 1e-9)  # half-way pixels


def test_operations_have_the_names_of_torchvision_in_its_order():
    assert (
        list(OPERATIONS) == list(v2.TrivialAugmentWide._AUGMENTATION_SPACE) == list(v2.RandAugment._AUGMENTATION_SPACE)
    )


def test_what_an_image_becomes_is_one_of_the_operations_on_that_image():
    images = photos(40)
    strengths = torch.cat([torch.arange(31), -torch.arange(31)]) / 30
    space = [*zip(OPERATIONS.values(), policy.largest(0.99, (32.0, 32.0), 135.0, 0.99, 6.0), strict=True)]
    for image, result in zip(images, TrivialAugment()(images), strict=True):
        copies = image.expand(62, -1, -1, -1)
        candidates = torch.cat([operation(copies, strengths * most) for operation, most in space])
        assert ((candidates.int() - result).abs() <= 1).flatten(1).all(1).any()


def told(name: str):
    """Return an operation that writes its place and magnitude into the image, beside the image's own number."""
    place = list(OPERATIONS).index(name)

    def operation(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
        images = images.clone()
        images[:, 0, 0, 0], images[:, 0, 0, 1] = place, (100 + magnitude).round().byte()
        return images

    return operation


def test_operations_strengths_and_signs_are_drawn_evenly_and_images_keep_their_places(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(policy, "OPERATIONS", {name: told(name) for name in OPERATIONS})
    monkeypatch.setattr(policy, "largest", lambda *_: [60.0] * 14)
    number = torch.arange(7000)
    images = torch.zeros(7000, 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 1, 0], images[:, 0, 1, 1] = number // 100, number % 100
    kind, magnitude, high, low = TrivialAugment()(images).flatten(1).long().unbind(1)
    assert (high * 100 + low).equal(number)
    strength, sign = (magnitude - 100).abs() // 2, magnitude > 100
    assert kind.bincount(minlength=14).sub(500).abs().max() < 105  # 4.8 standard deviations
    assert strength.bincount(minlength=31).sub(226).abs().max() < 70  # 4.7
    assert sign.sum() == pytest.approx(7000 * 30 / 31 / 2, abs=200)  # 4.8
    drawn = torch.stack([number, kind, strength, sign])[:, strength > 0].double().corrcoef()
    assert (drawn - torch.eye(4)).abs().max() < 0.06  # 5


def test_rand_augment_applies_as_many_operations_as_asked_for_at_its_strength(monkeypatch):
    given = []
    monkeypatch.setattr(policy, "operate", lambda images, strength, _: given.append(strength) or images + 1)
    result = RandAugment(3, 12)(torch.zeros(5, 1, 2, 2, dtype=torch.uint8))
    assert result.eq(3).all()
    assert all(strength.equal(torch.full((5,), 0.4)) for strength in given)


def test_floats_are_rounded_first():
    images = photos(40)
    torch.manual_seed(1)
    expected = TrivialAugment()(images)
    torch.manual_seed(1)
    found = TrivialAugment()(images + torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4)
    assert found.dtype == torch.float32
    assert found.equal(expected.float())


def test_an_operation_that_nobody_drew_is_not_run(monkeypatch):
    run = []
    spied = {name: lambda images, _, name=name: run.append(name) or images for name in OPERATIONS}
    monkeypatch.setattr(policy, "OPERATIONS", spied)
    operate(photos(1), torch.ones(1), [1.0] * 14)
    assert len(run) == 1


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
