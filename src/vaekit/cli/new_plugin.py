"""The package that `vaekit new-plugin` writes: one part, its entry point, its test."""

from __future__ import annotations

import keyword
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
description = "Parts for vaekit"
requires-python = ">=3.11"
dependencies = ["vaekit>={version}"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."vaekit.encoders"]
{part} = "{module}:{part}"

[tool.hatch.build.targets.wheel]
only-include = ["{module}.py"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

_MODULE = '''\
"""Parts for vaekit."""

from math import prod

import torch
from torch import Tensor, nn

from vaekit.contracts import Encoder
from vaekit.networks import fill


class {part}(Encoder):
    """A linear layer and a sine.

    Arguments:
        width: Number of features.
    """

    def __init__(self, event_shape: tuple[int, ...], width: int = 128) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"Expected a width of at least 1 but got {{width}}.")
        self.features = width  # what the posterior is built for
        self.linear = nn.Linear(prod(event_shape), width)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        x = fill(x, mask).flatten(1)  # zeros in the place of what a mask hides
        return torch.sin(self.linear(x))  # (B, width)
'''

_TEST = '''\
"""Every part obeys the laws of its kind."""

from vaekit.testing import check_encoder


def test_the_encoder_obeys_the_laws() -> None:
    check_encoder("{part}")
'''

_README = """\
# {name}

Parts for [vaekit](https://pypi.org/project/vaekit).

    pip install -e '.[test]' && pytest
    vaekit fit --model.encoder {part} --model.encoder.width 64
"""


def new_plugin(name: str) -> list[Path]:
    """Writes a package into a new folder of that name, and returns its files.

    Raises:
        ValueError: If that is no name of a package, or is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise ValueError(
            f"Expected the name of a package, such as acme-vae (small letters, digits and "
            f"hyphens), but got {name!r}."
        )
    folder, module = Path(name), name.replace("-", "_")
    if keyword.iskeyword(module) or find_spec(module) is not None:
        raise ValueError(
            f"Expected a name of its own, but {module} is taken: choose another name."
        )
    if folder.exists():
        raise ValueError(f"Expected a new folder, but {name} exists: choose another name.")
    part = "".join(word.capitalize() for word in re.split("[-_]", name)) + "Encoder"
    texts = {
        "pyproject.toml": _PYPROJECT,
        f"{module}.py": _MODULE,
        "tests/test_parts.py": _TEST,
        "README.md": _README,
    }
    for path, text in texts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        names = {"name": name, "module": module, "part": part, "version": version("vaekit")}
        file.write_text(text.format(**names))
    return [folder / path for path in texts]
