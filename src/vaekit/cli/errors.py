"""Errors in plain words and one line: the parser's, vaekit's own and Lightning's."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vaekit.cli.allowed_imports import refused
from vaekit.registry import plugins, specs

REFUSALS = (ValueError, TypeError, RuntimeError, MemoryError, MisconfigurationException)
"""What vaekit and Lightning refuse something with."""


_KEY = re.compile(r'Parser key "([\w.]+)"')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
# Of the classes that a report names before an option the last is the one that lacks it.
_LACKS = re.compile(r".*class_path '([\w.]+)'.*?Option '(\w+)' is not accepted", re.DOTALL)
_NEEDS = re.compile(r"the following arguments are required: (.+)")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_EXPECTED = re.compile(r"Subtypes: \[(.+)\]|Expected an? (.+?)\. Got value")
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")
_NO_FILE = re.compile(r"Parser key \"([\w.]+)\":\s*Unable to load config '(.*)'")
_BESIDE_THE_POINT = (
    "Does not",
    "Subtypes",
    "Expected a <",
    "Expected <",
    "Not a",
    "a class",
    "a dict",
)
_NEEDS_PACKAGE = re.compile(
    r"class_path '[\w.]+':.*?(?:No module named '([\w.]+)'|Neither `(\w+)`)", re.DOTALL
)
_CAME = re.compile(r"(?:Got|Given) value: (.*)")


def plainer(message: str, options: Iterable[str]) -> str:
    """An error of jsonargparse in the terms of the plugins, arguments and options there are.

    Arguments:
        options: The options of the command.
    """
    if denied := _DENIED.search(message):
        return refused(denied[1])
    if message.startswith("unrecognized arguments: "):
        return _no_option(message, options)
    if found := _LACKS.search(message):
        return _no_argument(found[1], found[2])
    if found := _NEEDS_PACKAGE.search(message):
        package = (found[1] or found[2]).partition(".")[0]
        return f"{package} is not installed, and what was named needs it: pip install {package}"
    keys, rest = _innermost(message.splitlines())
    option, came = "--" + ".".join(keys), _CAME.search(rest)
    cls = _CLASS.search(rest)
    if keys and cls and (needs := _NEEDS.search(rest)):
        wanted = " ".join(f"{option}.{name}" for name in re.split(r",\s*", needs[1]))
        return f"{cls[1].rpartition('.')[2]} needs {wanted}"
    if keys and (missing := _NO_CLASS.search(rest)):
        return f"{option}: {_no_class(missing[1], rest)}"
    if keys and came and (expected := _EXPECTED.search(rest)):
        return f"{option}: expected {_types(expected[1] or expected[2])} but got {came[1]!r}"
    if found := _NO_FILE.match(message):
        return f"--{found[1]}: expected options, or a file of them, but got {found[2]!r}"
    return _reason(message) or one_line(message)


def _reason(message: str) -> str | None:
    """What a class said that refused its arguments, among what others than it could have been."""
    if not message.startswith("Does not validate against any of the Union subtypes"):
        return None
    for part in re.split(r"Errors:|\s- ", message):
        said = one_line(part.partition("Given value type")[0])
        if said and not said.startswith(_BESIDE_THE_POINT):
            return said
    return None


def _no_option(message: str, options: Iterable[str]) -> str:
    words = message.partition(": ")[2].split()
    name = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if name is None:
        return f"Expected options, such as --trainer.max_epochs 5, but got {' '.join(words)}"
    return f"There is no option {name}.{plugins.nearest(name, options)}"


def _no_argument(path: str, name: str) -> str:
    with suppress(plugins.RegistryError):
        return specs.refusal(plugins.find_any(plugins.unique(path)), name)
    module, _, attribute = path.rpartition(".")
    cls = getattr(sys.modules.get(module), attribute, None)
    known = [] if cls is None else list(inspect.signature(cls).parameters)
    known = [name for name in known if name not in ("params", "optimizer")]  # torch's, from us
    has = f" It has: {', '.join(known)}." if known else ""
    return f"{path} has no argument {name!r}.{plugins.nearest(name, known)}{has}"


def _no_class(name: str, rest: str) -> str:
    """That there is no class of that name where the wanted base class lies."""
    bases = re.findall(r"<class '([\w.]+)'>", rest)
    if bases and "." not in bases[0]:
        return f"expected {bases[0]} but got {name!r}"
    package, _, base = bases[0].rpartition(".") if bases else ("", "", "class")
    package = package.rpartition(".")[0]
    known = [n for n in vars(sys.modules.get(package, sys)) if n[:1].isupper()]
    return f"there is no {base} {name}.{plugins.nearest(name, known)}"


def _innermost(lines: list[str]) -> tuple[list[str], str]:
    """The keys that lead to the innermost error of the first branch, and what is said of it."""
    keys: list[str] = []
    depth, at = -1, 0
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip(" -"))
        if (found := _KEY.search(line)) and indent > depth:
            keys.append(found[1])
            depth, at = indent, i
    return keys, "\n".join(lines[at:])


def _types(text: str) -> str:
    """Types as Python writes them in the words of a user.

    Example:
        >>> _types("<class 'int'>, list[int], typing.Literal['a', 'b'], <class 'NoneType'>")
        "int or list[int], such as [2,3] or 2,3, or one of 'a', 'b'"
    """
    found = re.findall(r"<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\]|([\w.]+\[.*?\]+)", text)
    words = []
    for plain, choices, generic in found:
        if choices:
            words.append(f"one of {choices}")
        elif generic:
            numbers = ", such as [2,3] or 2,3," if generic in ("list[int]", "list[float]") else ""
            words.append(re.sub(r"(?:\w+\.)+", "", generic) + numbers)
        elif plain != "NoneType":
            words.append(plain.rpartition(".")[2])
    return " or ".join(words).rstrip(",") or text


def is_of_restoring(error: Exception) -> bool:
    """Whether an error comes from what a checkpoint holds, and not from training."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(
        (
            Path(frame.filename).name == "checkpoint_connector.py"
            and frame.name.startswith(("restore", "resume"))
        )
        or frame.name == "_take_up"
        for frame in frames
    )


def is_refusal(error: Exception) -> bool:
    """Whether vaekit or Lightning refuses something, or memory is short; else it is a fault."""
    if isinstance(error, MisconfigurationException | ModuleNotFoundError | MemoryError):
        return True
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    raised = frames[-1]
    theirs = "lightning" in raised.parts or raised.name == "lr_scheduler.py"
    if isinstance(error, AttributeError):  # which torch raises for what Lightning looks for
        return any("lightning" in frame.parts for frame in frames[-2:])
    if isinstance(error, ValueError):
        return theirs or Path(__file__).parents[1] in raised.parents
    short = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return short or (theirs and isinstance(error, TypeError | RuntimeError))


def why(error: Exception) -> str:
    """An error in one line, and how to mend what Lightning does not explain."""
    text = one_line(error)
    if wanted := re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", text):
        size = int(wanted[1]) / 2**30
        return f"There is not enough memory: {size:,.1f} GiB were wanted. Take smaller sizes."
    if "No supported gpu backend" in text:
        return (
            "Expected a GPU, for --trainer.accelerator gpu or -c multi_gpu, but torch finds none "
            "on this machine."
        )
    return text


def one_line(text: object) -> str:
    """A text without its line breaks."""
    return " ".join(str(text).split())
