"""The law of several processes: two ranks end a few steps with one model."""

from __future__ import annotations

import multiprocessing
import tempfile
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vaekit.noise import fixed_noise
from vaekit.testing.models import state_of
from vaekit.testing.subject import Excused, Subject, require

__all__ = ["two_ranks_end_with_one_model"]

_SECONDS = 120


def two_ranks_end_with_one_model(s: Subject) -> None:
    """After three steps on rows of their own, two ranks have the same weights and buffers, and no
    weight was left without gradient.

    Each rank is a process, which imports the part's class by its module: it has to be defined at
    the top of one. A class of a notebook or of a script is excused.
    """
    if not _can_be_imported(s.cls.__module__):
        raise Excused("no other process can import it")
    known = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload(["vaekit.testing"])  # once, and not for each part
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=_rank, args=(r, folder, s), daemon=True) for r in (0, 1)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(_SECONDS)
            rank.kill()
        told = [Path(folder, f"{r}.txt") for r in (0, 1)]
        errors = [path.read_text() for path in told if path.is_file()]
        require(not errors, errors[0] if errors else "")
        ended = all(Path(folder, f"{r}.pt").is_file() for r in (0, 1))
        require(ended, f"the ranks did not end within {_SECONDS} s")
        found = [torch.load(Path(folder, f"{r}.pt"), weights_only=True) for r in (0, 1)]
    idle = ", ".join(found[0]["idle"])
    require(not idle, f"no gradient reaches {idle}")
    one, other = (result["state"] for result in found)
    apart = [name for name, value in one.items() if not torch.equal(value, other[name])]
    require(not apart, f"the ranks end with another {', '.join(apart)}")


def _can_be_imported(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # it came from no file
        return False


def _rank(rank: int, folder: str, s: Subject) -> None:
    torch.set_num_threads(1)
    try:
        with s.known():
            torch.save(_trained(rank, folder, s), Path(folder, f"{rank}.pt"))
    except Exception as error:  # noqa: BLE001 - which the other process tells
        Path(folder, f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")


def _trained(rank: int, folder: str, s: Subject) -> dict[str, Any]:
    store = f"file://{folder}/store"
    wait = timedelta(seconds=_SECONDS // 2)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=wait)
    with fixed_noise(0):
        model, batch = s.model().train(), s.batch(rows=8)
        model.core.keep_draw = True
        for part in model.overriding("start"):
            part.start(iter([batch]))
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(weights.values(), lr=0.01)
    idle = set(weights)
    torch.manual_seed(rank)
    for step in range(3):
        optimizer.zero_grad()
        own = batch[slice(rank * 4, rank * 4 + 4)]
        model.objective(model.core, own, step)["loss"].mean().backward()
        idle -= {name for name, p in weights.items() if p.grad is not None}
        for p in weights.values():
            if p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= 2
        optimizer.step()
        draw, model.core.last_draw = model.core.last_draw, None
        if draw is not None:
            with torch.no_grad():
                for part in model.overriding("after_step"):
                    part.after_step(draw)
    dist.destroy_process_group()
    return {"idle": sorted(idle), "state": state_of(model)}
