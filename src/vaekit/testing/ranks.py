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

from vaekit.numerics.random import fixed_noise
from vaekit.testing.models import finish_step, state_of
from vaekit.testing.subject import Excused, Law, Subject, require

_SECONDS = 120


def two_ranks_end_with_one_model(s: Subject) -> None:
    """After three steps on rows of their own, two ranks have the same weights and buffers (but for
    those of torch's batch norm), and every weight had a gradient.

    Each rank is a process, which imports the part's class by its module. A class of a notebook, of
    a script, or inside a function is excused.
    """
    if "<locals>" in s.cls.__qualname__ or not _can_be_imported(s.cls.__module__):
        raise Excused("no other process can import it")
    with tempfile.TemporaryDirectory() as folder:
        _run_two(s, folder)
        told = [Path(folder, f"{rank}.txt") for rank in (0, 1)]
        for path in told:
            require(not path.is_file(), path.read_text() if path.is_file() else "")
        ended = all(Path(folder, f"{rank}.pt").is_file() for rank in (0, 1))
        require(ended, f"the ranks did not end within {_SECONDS} s")
        one, other = (torch.load(Path(folder, f"{r}.pt"), weights_only=True) for r in (0, 1))
    idle = ", ".join(sorted(set(one["idle"]) & set(other["idle"])))
    require(not idle, f"no gradient reaches {idle}")
    apart = [n for n, value in one["state"].items() if not torch.equal(value, other["state"][n])]
    require(not apart, f"{', '.join(apart)} differs between the ranks")


def _can_be_imported(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # it came from no file
        return False


def _run_two(s: Subject, folder: str) -> None:
    known = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload(["vaekit.testing"])  # once, and not for each part
    ranks = [context.Process(target=_rank, args=(rank, folder, s), daemon=True) for rank in (0, 1)]
    started = []
    try:
        for rank in ranks:
            rank.start()
            started.append(rank)
        for rank in ranks:
            rank.join(_SECONDS)
    finally:
        for rank in started:
            rank.kill()


def _rank(rank: int, folder: str, s: Subject) -> None:
    torch.set_num_threads(1)
    try:
        with s.known():
            torch.save(_trained(rank, folder, s), Path(folder, f"{rank}.pt"))
    except Exception as error:  # noqa: BLE001 - which the other process tells
        Path(folder, f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")


def _trained(rank: int, folder: str, s: Subject) -> dict[str, Any]:
    """The state of a rank after three steps, and the weights that had no gradient."""
    store, wait = f"file://{folder}/store", timedelta(seconds=_SECONDS // 2)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=wait)
    with fixed_noise(0):
        model, batch = s.model().train(), s.batch(rows=8)
    model.core.keep_draw = True
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, idle = torch.optim.Adam(weights.values(), lr=1e-3), set(weights)
    torch.manual_seed(rank)
    for step in range(3):
        optimizer.zero_grad()
        own = batch[slice(rank * 4, rank * 4 + 4)]
        model.objective(model.core, own, step)["loss"].mean().backward()
        idle -= {name for name, p in weights.items() if p.grad is not None}
        for p in weights.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)
            p.grad /= 2
        optimizer.step()
        finish_step(model)
    dist.destroy_process_group()
    return {"idle": sorted(idle), "state": state_of(model)}


OF_RANKS: tuple[Law, ...] = (two_ranks_end_with_one_model,)
