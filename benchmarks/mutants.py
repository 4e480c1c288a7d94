"""Plants faults in vaekit's own parts, core and module, and looks whether the tests see them.

    python benchmarks/mutants.py [--dry]

Each fault is one small change in a copy of the repository; the tests run until the first that
fails, the laws first. What caught each goes into benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from reproduce import ROOT, publish

FIRST = ["conformance", "vae", "objectives", "distributions", "likelihoods"]
FIRST += [
    "importance_sampling",
    "means",
    "importance_objectives",
    "elbo",
    "geco",
    "correlation",
    "divergence",
    "latent_adversary",
    "data_adversary",
]
FIRST += ["autoencoder"]

ENTRIES = ["src", "tests", "configs", "docs", "benchmarks", "pyproject.toml"]
ENTRIES += ["README.md", "PLUGINS.md"]

FAULTS = {
    "the decoder gets no context": (
        "cores/vae.py",
        "y = decoder(z.flatten(0, 1), flat)",
        "y = decoder(z.flatten(0, 1), None if flat is None else 0 * flat)",
    ),
    "another row's context": (
        "cores/vae.py",
        "context.expand(*samples, -1)",
        "context.flip(0).expand(*samples, -1)",
    ),
    "`stop` without effect": ("cores/vae.py", "if stop:", "if False:"),
    "a prior without `infer`": (
        "cores/vae.py",
        "return self.prior(context, infer)",
        "return self.prior(context)",
    ),
    "rows generated from the prior's mean": (
        "cores/vae.py",
        "prior.sample(torch.Size((n,) if not prior.batch_shape else ()))",
        "prior.mean.expand(n, *prior.event_shape)",
    ),
    "KL(p || q) for KL(q || p)": (
        "distributions/base.py",
        "return kl_divergence(q, p)",
        "return kl_divergence(p, q).expand(q.batch_shape)",
    ),
    "the variance for the standard deviation": (
        "posteriors/normal.py",
        "(soft_clamp(log_variance) / 2).exp()",
        "soft_clamp(log_variance).exp()",
    ),
    "the rate counted twice": (
        "contracts/draw.py",
        '"elbo": -(distortion + rate)',
        '"elbo": -(distortion + 2 * rate)',
    ),
    "a mean over pixels for the sum": (
        "likelihoods/binary.py",
        "-terms.flatten(-len(self.output_shape)).sum(-1)",
        "-terms.flatten(-len(self.output_shape)).mean(-1)",
    ),
    "beta squared": (
        "objectives/elbo.py",
        "weight_at(self.beta, step) *",
        "weight_at(self.beta, step) ** 2 *",
    ),
    "log K left out of the likelihood": (
        "evaluation/importance_sampling.py",
        " - log(samples)",
        "",
    ),
    "evaluation in training mode": ("model/model.py", "        self.eval()\n", ""),
    "the training loss reported as the bound": (
        "contracts/objective.py",
        "return model.draw(batch).bound()",
        "return {**self(model, batch, 0), 'elbo': -self(model, batch, 0)['loss']}",
    ),
    "a scheduler ignored": (
        "training/module.py",
        "if self.lr_scheduler is None:",
        "if True:",
    ),
    "a last batch of any size counts as a whole one": (
        "metrics/means.py",
        ".sum(1, dtype=self.rows.dtype)\n        self.rows = self.rows + rows",
        ".mean(1, dtype=self.rows.dtype)\n        self.rows = self.rows + 1",
    ),
    "a mask that the encoder ignores": ("networks/mlp.py", "fill(x, mask)", "x.nan_to_num()"),
    "DReG's weights not squared": (
        "objectives/importance.py",
        'squared=self.gradient == "dreg"',
        "squared=False",
    ),
    "the encoder gets all draws' gradient in PIWAE": (
        "objectives/importance.py",
        "own = self._counts(log_w, self.groups,",
        "own = self._counts(log_w, self._outer,",
    ),
    "free bits held row by row": (
        "objectives/elbo.py",
        'kl if self.over == "row" else',
        "kl if True else",
    ),
    "the row's own draw counts as any other's": (
        "objectives/correlation.py",
        "own, other = 1 / n, (n - 1) / (n * max(rows - 1, 1))",
        "own = other = 1 / rows",
    ),
    "a draw compared with itself": (
        "objectives/divergence.py",
        "(k.sum() - k.diagonal().sum()) / max(k.numel() - len(k), 1)",
        "k.mean()",
    ),
    "the encoder pays the critic's loss": (
        "objectives/latent_adversary.py",
        "critic = self._taught(z.detach())",
        "critic = self._taught(z)",
    ),
    "the decoder helps the discriminator": (
        "objectives/data_adversary.py",
        "generator = -softplus(logit)",
        "generator = softplus(logit)",
    ),
    "the decoder's penalty keeps from the encoder": (
        "objectives/autoencoder.py",
        "_square_norm(core, decoded, draw.z[0])",
        "_square_norm(core, decoded, draw.z[0].detach())",
    ),
    "a mean of batch means in the baseline": (
        "evaluation/baseline.py",
        "return None if fitted is None else _log_probs(fitted, model, data, split)",
        "rows = None if fitted is None else _log_probs(fitted, model, data, split).split(40)\n"
        "        return rows and torch.stack([some.mean() for some in rows])",
    ),
    "the mask of the baseline not passed": (
        "evaluation/baseline.py",
        "self.likelihood.log_prob(p, batch.x, batch.mask)[0]",
        "self.likelihood.log_prob(p, batch.x)[0]",
    ),
    "hidden values counted in the baseline": (
        "evaluation/baseline.py",
        "torch.ones_like(x) if mask is None else mask.to(x)",
        "torch.ones_like(x)",
    ),
    "the likelihood's own weights not fitted in the baseline": (
        "evaluation/baseline.py",
        "self.weights += [w for w in fitted.likelihood.parameters() if w.requires_grad]",
        "self.weights += []",
    ),
    "a part of the rows taken for all in the baseline": (
        "evaluation/baseline.py",
        "if found > _log_probs(",
        "if True or found > _log_probs(",
    ),
    "the baseline in the units of x": (
        "evaluation/baseline.py",
        'found[first : first + len(batch)] = terms["elbo"]',
        "found[first : first + len(batch)] = fitted.log_prob(batch)",
    ),
    "moments over rows that do not show an element": (
        "contracts/likelihood.py",
        "seen.to(x).sum(0), x.sum(0)",
        "torch.ones_like(x).sum(0), x.sum(0)",
    ),
    "a group split that ignores the seed": (
        "data/rows/splits.py",
        'torch.randperm(len(names), generator=generator("split", seed))',
        'torch.randperm(len(names), generator=generator("split", 0))',
    ),
    "labels of other rows after binarising": (
        "data/rows/prepare.py",
        "None if c is None else each(lambda leaf: leaf[own], c) for c in columns",
        "None if c is None else each(lambda leaf: leaf[: len(rows)], c) for c in columns",
    ),
    "codes without the mask in fit-prior": (
        "model/fitted_priors.py",
        "model.core.infer(batch.x, batch.context, batch.mask)",
        "model.core.infer(batch.x, batch.context)",
    ),
    "a mean of 0 assumed in FittedNormal": (
        "priors/fitted.py",
        "self.loc.copy_(mean)\n",
        "self.loc.zero_()\n",
    ),
    "a mixture fitted around 0": (
        "priors/fitted.py",
        "self.loc.copy_(mean + scale * torch",
        "self.loc.copy_(scale * torch",
    ),
    "what the context explains is fitted twice": (
        "priors/fitted.py",
        "            z = z - c @ found\n",
        "",
    ),
    "TwoStagePrior without `log_volume`": (
        "priors/two_stage.py",
        "log(self.prior.draws) - log_volume",
        "log(self.prior.draws)",
    ),
    "ZINB's variance without the share of zeros": (
        "likelihoods/counts.py",
        "return kept * (variance + (1 - kept) * mean.square())",
        "return kept * variance",
    ),
    "gathered rows with this rank's gradient alone": (
        "numerics/distributed.py",
        "return sum_over_ranks(grads[0])[dist.get_rank()]",
        "return grads[0][dist.get_rank()]",
    ),
    "`batch_idx` for `global_step` in schedules": (
        "training/module.py",
        "self.model.objective(self.model.core, batch, self.global_step)",
        "self.model.objective(self.model.core, batch, batch_idx)",
    ),
    "best.ckpt taken regardless of its score": (
        "training/callbacks/checkpoint.py",
        "return super().check_monitor_top_k(trainer, current)",
        "return True",
    ),
    "the draws of a chunk repeat those of the first": (
        "evaluation/importance_sampling.py",
        "replace(batch, keys=later_draws(keys, start))",
        "batch",
    ),
    "GECO's multiplier falls where it should grow": (
        "objectives/geco.py",
        "self.speed * relative",
        "-self.speed * relative",
    ),
}


def caught_by(file: str, old: str, new: str) -> str:
    """The first test that fails with a change; nothing where all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "vaekit")
        copy.mkdir()
        for entry in ENTRIES:
            own = ROOT / entry
            (shutil.copytree if own.is_dir() else shutil.copy)(own, copy / entry)
        path = copy / "src" / "vaekit" / file
        text = path.read_text()
        if old not in text:
            raise ValueError(f"Expected {old!r} in {file}, to change it, but it is not there.")
        path.write_text(text.replace(old, new))
        env = {**os.environ, "PYTHONPATH": str(copy / "src")}
        paths = {p.stem: str(p.relative_to(copy)) for p in (copy / "tests").rglob("test_*.py")}
        first = [paths[f"test_{name}"] for name in FIRST]
        others = sorted(paths.values())
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["--show-capture=no", "--tb=no"]
        files = dict.fromkeys([*first, *others])
        done = subprocess.run(
            [*command, *files], cwd=copy, env=env, capture_output=True, text=True
        )
        failed = re.search(r"^FAILED tests/(\S+)", done.stdout, re.M)
        if done.returncode not in (0, 1) or bool(failed) != bool(done.returncode):
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return failed[1] if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    lines, seen = ["| fault | first test that fails |", "|---|---|"], 0
    for name, change in FAULTS.items():
        test = caught_by(*change)
        seen += bool(test)
        lines.append(f"| {name} | {f'`{test}`' if test else 'none'} |")
        print(lines[-1], flush=True)
    how = (
        f"`python benchmarks/mutants.py`: {len(FAULTS)} faults planted one by one, {seen} caught."
    )
    publish("Planted faults", how, lines, args.dry)


if __name__ == "__main__":
    main()
