"""Importance-weighted objectives where small numbers are lost, or names clash."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_vae import linear_gaussian

from vaekit.contracts.batch import Batch
from vaekit.objectives.importance import IWAE


def test_partial_is_refused_in_float16_where_small_weights_are_lost() -> None:
    core, _, _ = linear_gaussian(d=3, k=1, scale=0.7)
    core, batch = core.float(), Batch(torch.randn(4, 3))
    piwae = IWAE(2, 3, partial=True)
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match=r"bfloat16 or flo"):
        piwae(core, batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert piwae(core, batch, 0)["loss"].isfinite().all()


@pytest.mark.parametrize("alpha", [1 - 1e-5, 1 - 1e-7, 1 - 1e-9, 1 + 1e-7])
def test_an_alpha_next_to_1_gives_the_elbo_in_float32_too(alpha: float) -> None:
    core, _, _ = linear_gaussian(d=3, k=1, scale=0.7)
    terms = IWAE(12, alpha=alpha)(core.float(), Batch(20 * torch.randn(4, 3)), 0)
    assert torch.allclose(terms["loss"], -terms["elbo"], rtol=1e-3)


def test_a_loss_of_q_by_a_bounds_name_does_not_take_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, _, _ = linear_gaussian(d=3, k=1, scale=0.7)
    made = type(core.posterior).forward

    def bring(self: Any, *args: Any) -> Any:
        q = made(self, *args)
        q.losses = {"iwae": torch.full((4,), 7.0).double()}
        return q

    monkeypatch.setattr(type(core.posterior), "forward", bring)
    found = IWAE(3).evaluate(core, Batch(torch.randn(4, 3).double()))
    assert (found["iwae"] < 0).all()
