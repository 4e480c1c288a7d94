"""The range and the number of levels of images depend on their values, not only their type."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from vaekit import Model, data, testing
from vaekit.data.user import ranges
from vaekit.model.parts_for_data import parts_for

ON = np.random.default_rng(0).random((60, 1, 8, 8)) < 0.4
GREY = np.random.default_rng(1).integers(0, 256, (60, 1, 16, 16)).astype(np.float32)


def first_loss(module: Any) -> float:
    model = Model(module, **parts_for(module))
    batch = next(module.rows("train"))
    return float(model.objective(model.core, batch, 0)["loss"].mean())


def saved(folder: Path, mode: str, images: np.ndarray = ON, suffix: str = "png") -> Path:
    folder.mkdir()
    for at, image in enumerate(images[:, 0]):
        pixels = image if image.dtype == np.uint8 else (image * 255).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{at:02}.{suffix}")
    return folder


# Black and white


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "f2", "i8"])
@pytest.mark.parametrize("shape", [(60, 1, 8, 8), (60, 8, 8), (60, 64)])
def test_black_and_white_had_256_levels(dtype: str, shape: tuple[int, ...]) -> None:
    module = data.Arrays(np.where(ON, 255, 0).astype(dtype).reshape(shape))
    assert (module.info.levels, module.info.data_range) == (2, (0.0, 1.0))
    assert parts_for(module)["likelihood"] == "Bernoulli"
    x = torch.cat([batch.x for split in module.splits for batch in module.rows(split)])
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert int(x.sum()) == ON.sum()


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_black_and_white_files_had_256_levels(mode: str, tmp_path: Path) -> None:
    module = data.ImageFolder(saved(tmp_path / "x", mode))
    assert module.info.levels == 2
    assert parts_for(module)["likelihood"] == "Bernoulli"
    assert module.told()["x"].endswith("from 0 to 1, 2 levels")
    assert set(next(module.rows("train")).x.unique().tolist()) == {0.0, 1.0}
    testing.check_data(data.ImageFolder, {"path": str(tmp_path / "x")})


def test_black_and_white_in_a_data_set(tmp_path: Path) -> None:
    images = [Image.fromarray((image * 255).astype(np.uint8)) for image in ON[:, 0]]
    rows = datasets.Dataset.from_dict({"image": images}, datasets.Features(image=datasets.Image()))
    rows.save_to_disk(str(tmp_path / "images"))
    assert data.HuggingFace(tmp_path / "images").info.levels == 2
    values = datasets.Features(x=datasets.Array2D((8, 8), "uint8"))
    rows = datasets.Dataset.from_dict({"x": (ON[:, 0] * 255).astype("u1")}, values)
    rows.save_to_disk(str(tmp_path / "numbers"))
    module = data.HuggingFace(tmp_path / "numbers")
    assert module.info.levels == 2
    again = data.HuggingFace(tmp_path / "numbers").follow(module.info.schema)
    assert again.info.levels == 2


def test_one_grey_pixel_and_jpeg_have_256_levels(tmp_path: Path) -> None:
    x = np.where(ON, 255, 0).astype(np.uint8)
    assert data.ImageFolder(saved(tmp_path / "j", "L", suffix="jpg")).info.levels == 256
    x[59, 0, 7, 7] = 100
    assert data.Arrays(x).info.levels == 256
    assert data.ImageFolder(saved(tmp_path / "p", "L", x)).info.levels == 256


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_black_and_white_is_spread_and_binarised(dtype: str, tmp_path: Path) -> None:
    x = np.where(ON, 255, 0).astype(dtype)
    for module in (
        data.Arrays(x, dequantize=True),
        data.ImageFolder(saved(tmp_path / "x", "L"), dequantize=True),
    ):
        assert module.info.bin_width == 1 / 256
        values = next(module.rows("train")).x
        assert bool(((values < 1 / 256) | (values >= 255 / 256)).all())
    for binarize in ("static", "dynamic"):
        assert data.Arrays(x, binarize=binarize).info.levels == 2  # type: ignore[arg-type]


def test_of_what_is_too_large_to_be_read_whole_the_type_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranges, "BYTES", 1000)
    x = torch.randint(2, (5000, 4), dtype=torch.uint8) * 255
    assert data.Arrays(x).info.levels == 256


# Grey values in other types


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "i8"])
@pytest.mark.parametrize("shape", [(60, 1, 16, 16), (60, 16, 16), (60, 256)])
def test_grey_values_as_floats_cost_millions_at_first(dtype: str, shape: tuple[int, ...]) -> None:
    module = data.Arrays(GREY.astype(dtype).reshape(shape))
    assert (module.info.levels, module.info.data_range) == (256, (0.0, 1.0))
    assert "whole numbers divided by 255 (--data.data_range 0,255" in module.told()["x"]
    assert module.looked_at
    x = next(module.rows("train")).x.flatten()
    index = module.numbers("train")
    expected = torch.from_numpy(GREY[index] / 255).flatten()
    torch.testing.assert_close(x, expected[: len(x)])
    assert abs(first_loss(module)) < 3000
    testing.check_data(data.Arrays, {"x": GREY.astype(dtype).reshape(shape)})


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (GREY[:, 0] - 1, (-inf, inf)),
        (GREY / 255, (0, 1)),
        (GREY * 2, (0, inf)),
        (GREY[:, 0] // 16, (0, inf)),
        (GREY[:, 0, :, :3], (0, inf)),
        (GREY[:, 0, 0], (0, inf)),
        ((GREY[:, 0] // 2).astype(int), (0, inf)),
        ((GREY.reshape(60, 256) // 2), (0, inf)),
    ],
)
def test_other_numbers_are_taken_as_they_are(x: Any, expected: tuple[float, float]) -> None:
    module = data.Arrays(x)
    assert module.info.data_range == expected
    assert module.info.levels is None


def test_a_declared_range_and_a_standard_scale_win() -> None:
    module = data.Arrays(GREY, data_range=(0, 255))
    assert (module.info.data_range, module.info.levels) == ((0.0, 255.0), None)
    assert next(module.rows("train")).x.max() > 200
    module = data.Arrays(GREY, standardize=True)
    assert module.info.data_range == (-inf, inf)
    assert set(module.info.schema or ()) == {"of", "scales"}


def test_grey_values_that_are_not_whole_are_named() -> None:
    with pytest.warns(UserWarning, match=r"values from 0 to 254\.\d+.*--data\.standardize true"):
        assert data.Arrays(GREY * 0.999).info.data_range == (0, inf)


def test_grey_values_may_be_missing() -> None:
    x = GREY.copy()
    x[3, 0, 2] = np.nan
    module = data.Arrays(x, missing="nan")
    assert (module.info.levels, module.info.data_range) == (256, (0.0, 1.0))


# New data are read as the model's


def follow(x: Any, model: Any, **how: Any) -> Any:
    return data.Arrays(x, val=0, test=0, **how).follow(model.info.schema)


def test_new_data_with_few_values_are_read_as_the_model_s() -> None:
    grey = data.Arrays(GREY.astype(np.uint8))
    dark = follow(np.minimum(GREY, 1).astype(np.uint8), grey)
    assert dark.info.levels == 256
    assert float(next(dark.rows("train")).x.max()) == pytest.approx(1 / 255)
    extreme = follow(np.where(GREY > 99, 255, 0).astype(np.uint8), grey)
    assert extreme.info.levels == 256
    Model(grey, latent_shape=2).check_data(extreme.info)


def test_new_floats_are_scaled_as_the_model_s() -> None:
    model = data.Arrays(GREY)
    for x in (np.zeros_like(GREY), np.minimum(GREY, 1), GREY * 0.5, GREY.astype(np.uint8)):
        new = follow(x, model)
        assert new.info.data_range == (0.0, 1.0)
        assert float(next(new.rows("train")).x.max()) == pytest.approx(x.max() / 255)
    with pytest.raises(ValueError, match=r"from 0 to 255, as in the model's data, but x spans"):
        follow(GREY + 1, model).info  # noqa: B018


def test_whole_numbers_stay_as_they_are_if_the_model_s_values_did() -> None:
    model = data.Arrays(GREY * 1.001)
    new = follow(GREY, model)
    assert new.info.data_range == (0.0, inf)
    assert float(next(new.rows("train")).x.max()) == 255
    with pytest.raises(ValueError, match=r"these were divided by 255: let the data follow"):
        Model(model, **parts_for(model)).check_data(data.Arrays(GREY).info)


def test_a_model_of_black_and_white_refuses_grey_values(tmp_path: Path) -> None:
    model = data.Arrays(np.where(ON, 255, 0).astype(np.uint8))
    assert follow(ON.astype(np.uint8), model).info.levels == 2
    grey = (ON * 100).astype(np.uint8)
    with pytest.raises(ValueError, match=r"only the values 0 and 255.*--data\.binarize static"):
        follow(grey, model).info  # noqa: B018
    assert follow(grey, model, binarize="static").info.levels == 2
    folder = data.ImageFolder(saved(tmp_path / "x", "L"))
    new = data.ImageFolder(saved(tmp_path / "y", "L", grey)).follow(folder.info.schema)
    with pytest.raises(ValueError, match="only the values 0 and 255"):
        new.info  # noqa: B018
    same = data.ImageFolder(tmp_path / "x").follow(folder.info.schema)
    assert same.info.levels == 2


def test_rows_that_follow_an_earlier_model_are_read_as_they_were(tmp_path: Path) -> None:
    x = np.where(ON, 255, 0)
    assert data.Arrays(x.astype(np.uint8)).follow(None).info.levels == 256
    assert data.Arrays(x.astype(np.float32)).follow(None).info.data_range == (0.0, inf)
    folder = data.ImageFolder(saved(tmp_path / "x", "L"))
    assert folder.info.schema is not None
    schema = {k: v for k, v in folder.info.schema.items() if k not in ("levels", "pages")}
    again = data.ImageFolder(tmp_path / "x").follow(schema)
    assert again.info.levels == 256
    assert again.info.schema == schema


def test_files_of_held_out_rows_follow_the_training_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", GREY.astype(np.uint8))
    np.save(tmp_path / "test.npy", np.where(GREY > 99, 255, 0).astype(np.uint8))
    module = data.Arrays(tmp_path / "train.npy", test=str(tmp_path / "test.npy"))
    assert module.info.levels == 256
    assert module.splits == ("train", "val", "test")


def test_entries_have_their_own_levels() -> None:
    x = {"a": GREY, "b": np.where(ON, 255, 0).astype(np.uint8), "c": GREY[:, 0, 0] - 9}
    module = data.Arrays(x)
    assert module.info.levels == {"a": 256, "b": 2, "c": None}
    again = data.Arrays(x).follow(module.info.schema)
    assert again.info.levels == module.info.levels
    assert again.info.schema == module.info.schema
