"""dSprites: images held to outlines that are filled, the numbers of the images, and the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline

from conftest import fit
from vaekit import Model, data, testing
from vaekit.data.datasets import dsprites
from vaekit.data.datasets.dsprites import Packed, sprites

SIZES = (3, 6, 40, 32, 32)
PIXELS = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5), axis=-1)  # (row, col, xy)


def number(*factors: int) -> int:
    return int(np.ravel_multi_index(factors, SIZES))


def image(*factors: int) -> np.ndarray:
    return np.unpackbits(sprites(np.array([number(*factors)]))[0], axis=-1)


def filled(shape: int, scale: int, orientation: int, x: int, y: int) -> np.ndarray:
    """The outline, turned and moved in the plane where y points upwards, and then filled."""
    t = np.linspace(0, 2 * np.pi, 6000, endpoint=False)
    down = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    outline = (
        9.6 * np.array([1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j]),
        12.8 * np.cos(t) + 7.2j * np.sin(t),
        9.6 * np.sin(t) ** 3 + 1j * (0.664 * down + 1.4),
    )[shape]
    turned = outline * (0.5 + scale / 10) * np.exp(2j * np.pi * orientation / 39)
    points = np.stack([16 + 32 * x / 31 + turned.real, 16 + 32 * y / 31 - turned.imag], axis=-1)
    return Outline(points).contains_points(PIXELS.reshape(-1, 2)).reshape(64, 64)


@pytest.mark.parametrize("shape", range(3))
def test_an_image_is_its_outline_filled(shape: int) -> None:
    noise = np.random.default_rng(10 + shape)
    chosen = [tuple(map(int, noise.integers(0, SIZES[1:]))) for _ in range(20)]
    corners = [(5, 0, 0, 0), (5, 5, 31, 31), (0, 39, 0, 31), (5, 14, 31, 0)]
    for factors in chosen + corners:
        found, expected = image(shape, *factors), filled(shape, *factors)
        assert found.sum() > 50
        np.testing.assert_array_equal(found, expected, err_msg=str(factors))


@pytest.mark.parametrize("shape", range(3))
def test_the_last_orientation_is_the_first(shape: int) -> None:
    for x, y in ((0, 0), (7, 20), (31, 31)):
        np.testing.assert_array_equal(image(shape, 3, 0, x, y), image(shape, 3, 39, x, y))
        assert (image(shape, 3, 1, x, y) != image(shape, 3, 0, x, y)).any()


def mean_of(pixels: np.ndarray) -> np.ndarray:
    """The mean place (x, y) of the pixels that are 1."""
    return PIXELS[pixels == 1].mean(0)


def test_orientations_are_counter_clockwise_on_the_screen() -> None:
    upright, turned = image(2, 5, 0, 0, 0), image(2, 5, 10, 0, 0)
    x, y = mean_of(upright)
    assert x == pytest.approx(16)
    assert y < 15.5  # the heart's wide part is up
    x, y = mean_of(turned)
    assert x < 15.5  # and goes to the left
    assert y == pytest.approx(16, abs=0.3)
    dx, dy = (PIXELS[image(1, 5, 5, 0, 0) == 1] - 16).T
    assert (dx * dy).mean() < -5  # the ellipse's right end goes up, where rows are smaller


@pytest.mark.parametrize("shape", [0, 1])
def test_positions_are_where_they_are_said_to_be(shape: int) -> None:
    for x, y, orientation, close in ((0, 31, 0, 1e-9), (31, 0, 0, 1e-9), (3, 18, 7, 0.2)):
        expected = [16 + x / 31 * 32, 16 + y / 31 * 32]
        assert mean_of(image(shape, 5, orientation, x, y)) == pytest.approx(expected, abs=close)


def test_the_shape_changes_slowest_and_y_fastest() -> None:
    sizes = [len(values) for values in data.DSprites.factors.values()]
    assert tuple(sizes) == SIZES
    assert list(data.DSprites.factors) == ["shape", "scale", "orientation", "x", "y"]
    module = data.DSprites(rows=300, val=0, test=0)
    label = next(module.rows("train", batch_size=300)).label
    assert module.names is not None
    numbers = label @ torch.tensor([6 * 40 * 1024, 40 * 1024, 1024, 32, 1])
    assert numbers.tolist() == module.names.tolist() == sorted(set(numbers.tolist()))
    assert label.amin(0).tolist() == [0, 0, 0, 0, 0]
    assert label.amax(0).tolist() == [2, 5, 39, 31, 31]


def test_a_subset_is_drawn_with_the_seed() -> None:
    one, same, other = (data.DSprites(rows=60, seed=seed) for seed in (1, 1, 2))
    xs = [next(module.rows("train", 60)).x for module in (one, same, other)]
    assert torch.equal(xs[0], xs[1])
    assert not torch.equal(xs[0], xs[2])
    assert one.names is not None
    own = one.names[one.numbers("train").numpy()]
    expected = np.concatenate([sprites(np.array([at])) for at in own])
    assert torch.equal(xs[0][:, 0], torch.from_numpy(np.unpackbits(expected, axis=-1)).float())


def test_packed_rows_are_cut_as_tensors_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (9, 6, 16), dtype=np.uint8)
    rows = Packed(np.packbits(pixels, axis=-1))
    whole = torch.from_numpy(pixels).unsqueeze(1)
    assert (tuple(rows.shape), rows.dtype, len(rows)) == ((9, 1, 6, 16), torch.uint8, 9)
    for at in (slice(2, 7), slice(None), torch.tensor([8, 0, 0]), torch.tensor([], dtype=int)):
        assert torch.equal(rows[at], whole[at])


def test_dsprites_obey_the_laws() -> None:
    testing.check_data(data.DSprites, {"rows": 200})


def test_a_model_trains_on_them() -> None:
    module = data.DSprites(rows=200, batch_size=50)
    trainer = fit(Model(module, latent_shape=3), module, max_epochs=2)
    assert trainer.global_step == 8
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])


@pytest.mark.parametrize("rows", [0, -3, 737_281])
def test_more_rows_than_there_are_is_an_error(rows: int) -> None:
    with pytest.raises(ValueError, match=r"from 1 to 737,280, but got"):
        data.DSprites(rows=rows)


# The file, of the first few images


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsprites, "_ALL", 1800)


def no_drawing(file: object) -> None:
    raise AssertionError("it was drawn again")


@pytest.mark.usefixtures("few")
def test_what_was_drawn_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = data.DSprites(tmp_path, val=0, test=0)
    x = next(module.rows("train", batch_size=1800)).x
    assert [path.name for path in (tmp_path / "dsprites").iterdir()] == ["bits.npy"]
    expected = np.unpackbits(sprites(np.arange(1800)), axis=-1)
    assert torch.equal(x[:, 0], torch.from_numpy(expected).float())
    monkeypatch.setattr(dsprites, "_draw_all", no_drawing)
    again = data.DSprites(tmp_path, val=0, test=0)
    assert torch.equal(next(again.rows("train", batch_size=1800)).x, x)


@pytest.mark.usefixtures("few")
def test_a_drawing_that_is_broken_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsprites, "sprites", no_drawing)
    with pytest.raises(AssertionError, match="drawn"):
        data.DSprites(tmp_path).prepare_data()
    assert list((tmp_path / "dsprites").iterdir()) == []


def swapped(path: Path) -> None:
    bits = np.load(path)
    np.save(path, bits[::-1])


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "no file": lambda path: path.write_bytes(b"no file"),
    "empty": lambda path: path.write_bytes(b""),
    "another shape": lambda path: np.save(path, np.zeros((1800, 512), np.uint8)),
    "another type": lambda path: np.save(path, np.zeros((1800, 64, 8), np.int8)),
    "objects": lambda path: np.save(path, np.full((1800, 64, 8), None), allow_pickle=True),
    "an archive": lambda path: np.savez(path.open("wb"), x=np.zeros((1800, 64, 8), np.uint8)),
    "zeros": lambda path: np.save(path, np.zeros((1800, 64, 8), np.uint8)),
    "another order": swapped,
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_drawn_again(damage: str, tmp_path: Path) -> None:
    module = data.DSprites(tmp_path)
    module.prepare_data()
    whole = module.file.read_bytes()
    DAMAGE[damage](module.file)
    with pytest.raises(ValueError, match=r"which prepare_data\(\) draws") as caught:
        module.load()
    assert "\n" not in str(caught.value)
    module.prepare_data()
    assert module.file.read_bytes() == whole


MEASURED = """
import resource, sys, time
from vaekit import data

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, start = most(), time.perf_counter()
module = data.DSprites(sys.argv[1])
assert module.info.data_size == 589_824
print(f"{time.perf_counter() - start:.0f} s to draw,")
start = time.perf_counter()
data.DSprites(sys.argv[1]).setup()
print(f"{time.perf_counter() - start:.1f} s to find,")
print(most() - before)
"""


@pytest.mark.slow
def test_all_images_are_drawn_in_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(said, "MB more than before")
    assert float(said.split()[-1]) < 400
    kept = np.load(tmp_path / "dsprites" / "bits.npy", mmap_mode="r")
    assert kept.shape == (737_280, 64, 8)
    some = data.DSprites(rows=500)
    assert some.info.data_size == 400
    assert some.names is not None
    np.testing.assert_array_equal(kept[some.names], sprites(some.names))
    for first, last in ((0, 39), (2 * 40, 2 * 40 + 39)):
        at = np.arange(1024)
        np.testing.assert_array_equal(kept[first * 1024 + at], kept[last * 1024 + at])
