"""Frey faces: the files that are found, damaged or missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from vaekit import data, testing


def write_frey(folder: Path, original: bool = False) -> np.ndarray:
    """Noise in the place of the faces, in one of their files."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (1965, 28, 20), dtype=np.uint8)
    if original:
        savemat(folder / "frey_rawface.mat", {"ff": images.reshape(1965, 560).T})
    else:
        np.savez(folder / "freyfaces.npz", images=images)
    return images


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("inner", ["", "freyfaces"])
def test_either_file_gives_the_same_images(tmp_path: Path, original: bool, inner: str) -> None:
    images = write_frey(tmp_path / inner, original)
    faces = data.FreyFaces(tmp_path)
    assert faces.info.event_shape == (1, 28, 20)
    assert faces.info.levels == 256
    assert [len(faces.numbers(split)) for split in faces.splits] == [1565, 200, 200]
    batch = next(faces.rows("test", 3))
    expected = torch.from_numpy(images[faces.numbers("test")[:3].numpy()]) / 255
    assert torch.equal(batch.x[:, 0], expected)


def test_it_obeys_the_laws(tmp_path: Path) -> None:
    write_frey(tmp_path)
    testing.check_data("FreyFaces", {"root": str(tmp_path)})


def test_a_missing_file_and_another_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"freyfaces.npz or frey_rawface.mat"):
        data.FreyFaces(tmp_path).info  # noqa: B018
    np.savez(tmp_path / "freyfaces.npz", images=np.zeros((5, 28, 20), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(1965, 28, 20\).* but got \(5, 28, 20\)"):
        data.FreyFaces(tmp_path).info  # noqa: B018
    (tmp_path / "freyfaces.npz").write_bytes(b"no file")
    with pytest.raises(ValueError, match="could not be read"):
        data.FreyFaces(tmp_path).info  # noqa: B018
