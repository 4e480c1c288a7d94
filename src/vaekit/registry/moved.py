"""The modules of earlier versions, and where their names are now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULES = {
    "vaekit.alternatives": "vaekit.registry.alternatives",
    "vaekit.arguments": "vaekit.cli.options",
    "vaekit.batch": "vaekit.contracts.batch",
    "vaekit.before": "vaekit.cli.invocation",
    "vaekit.checkpoints": "vaekit.model.checkpoints",
    "vaekit.choice": "vaekit.model.parts_for_data",
    "vaekit.cli": "vaekit.cli.app",
    "vaekit.collapse": "vaekit.training.callbacks.collapse",
    "vaekit.commands": "vaekit.cli.commands",
    "vaekit.compiled": "vaekit.training.compile",
    "vaekit.concrete": "vaekit.distributions.concrete",
    "vaekit.contracts.model": "vaekit.contracts.objective",
    "vaekit.contracts.parts": "vaekit.contracts.support",
    "vaekit.data.arrays": "vaekit.data.user.arrays",
    "vaekit.data.cells": "vaekit.data.readers.cells",
    "vaekit.data.channels": "vaekit.data.columns.tokens",
    "vaekit.data.cifar": "vaekit.data.datasets.cifar10",
    "vaekit.data.columns": "vaekit.data.columns.table",
    "vaekit.data.counts": "vaekit.data.user.counts",
    "vaekit.data.covariates": "vaekit.data.columns.covariates",
    "vaekit.data.decode": "vaekit.data.readers.images",
    "vaekit.data.digits": "vaekit.data.datasets.digits",
    "vaekit.data.dsprites": "vaekit.data.datasets.dsprites",
    "vaekit.data.files": "vaekit.data.readers.downloads",
    "vaekit.data.frames": "vaekit.data.readers.frames",
    "vaekit.data.frey": "vaekit.data.datasets.frey_faces",
    "vaekit.data.huggingface": "vaekit.data.user.huggingface",
    "vaekit.data.idx": "vaekit.data.datasets.mnist",
    "vaekit.data.images": "vaekit.data.user.images",
    "vaekit.data.mat": "vaekit.data.datasets.omniglot",
    "vaekit.data.panels": "vaekit.data.user.table_pictures",
    "vaekit.data.prepare": "vaekit.data.rows.prepare",
    "vaekit.data.ranges": "vaekit.data.user.ranges",
    "vaekit.data.rows": "vaekit.data.rows.batches",
    "vaekit.data.scale": "vaekit.data.columns.scale",
    "vaekit.data.sequences": "vaekit.data.user.sequences",
    "vaekit.data.sources": "vaekit.data.readers.arrays",
    "vaekit.data.sparse": "vaekit.data.rows.sparse",
    "vaekit.data.splits": "vaekit.data.rows.splits",
    "vaekit.data.steps": "vaekit.data.readers.sequences",
    "vaekit.data.tables": "vaekit.data.user.tables",
    "vaekit.decoders": "vaekit.networks.conv",
    "vaekit.distributions": "vaekit.distributions.base",
    "vaekit.doctor": "vaekit.cli.doctor",
    "vaekit.draw": "vaekit.contracts.draw",
    "vaekit.encoders": "vaekit.networks.mlp",
    "vaekit.factors": "vaekit.distributions.factors",
    "vaekit.finite": "vaekit.training.non_finite",
    "vaekit.fitting": "vaekit.priors.gradient_fit",
    "vaekit.flows": "vaekit.networks.flows",
    "vaekit.guard": "vaekit.training.callbacks.guard",
    "vaekit.importance": "vaekit.evaluation.importance_sampling",
    "vaekit.imports": "vaekit.cli.allowed_imports",
    "vaekit.levels": "vaekit.contracts.discrete_values",
    "vaekit.likelihoods.mixtures": "vaekit.likelihoods.logistic_mixture",
    "vaekit.likelihoods.scores": "vaekit.likelihoods.perceptual",
    "vaekit.limits": "vaekit.cli.checks",
    "vaekit.manifolds": "vaekit.distributions.manifolds",
    "vaekit.messages": "vaekit.cli.errors",
    "vaekit.mixtures": "vaekit.distributions.mixture",
    "vaekit.model": "vaekit.model.model",
    "vaekit.module": "vaekit.training.module",
    "vaekit.new_plugin": "vaekit.cli.new_plugin",
    "vaekit.nn": "vaekit.networks.blocks",
    "vaekit.noise": "vaekit.numerics.random",
    "vaekit.objectives.adversarial": "vaekit.objectives.latent_adversary",
    "vaekit.objectives.critics": "vaekit.objectives.adversary",
    "vaekit.objectives.gan": "vaekit.objectives.data_adversary",
    "vaekit.optim": "vaekit.training.optimizers",
    "vaekit.parsing": "vaekit.cli.parser",
    "vaekit.part": "vaekit.contracts.part",
    "vaekit.pictures": "vaekit.evaluation.pictures",
    "vaekit.plugins": "vaekit.registry.plugins",
    "vaekit.posteriors.relaxed": "vaekit.posteriors.discrete",
    "vaekit.precision": "vaekit.numerics.precision",
    "vaekit.prior_files": "vaekit.model.fitted_priors",
    "vaekit.quiet": "vaekit.training.lightning_messages",
    "vaekit.radial": "vaekit.distributions.quadrature",
    "vaekit.ranks": "vaekit.numerics.distributed",
    "vaekit.results": "vaekit.evaluation.output",
    "vaekit.resume": "vaekit.cli.resume",
    "vaekit.sequences": "vaekit.networks.sequences",
    "vaekit.sets": "vaekit.networks.sets",
    "vaekit.settled": "vaekit.training.callbacks.guard",
    "vaekit.signals": "vaekit.networks.conv1d",
    "vaekit.specs": "vaekit.registry.specs",
    "vaekit.storage": "vaekit.storage.files",
    "vaekit.summary": "vaekit.evaluation.summary",
    "vaekit.table": "vaekit.evaluation.summary",
    "vaekit.trainer": "vaekit.training.trainer",
    "vaekit.vae": "vaekit.cores.vae",
    "vaekit.wrapped": "vaekit.networks.torch_modules",
}
"""Old module -> new module."""

NAMES = {
    "vaekit.batch.Ranges": "vaekit.contracts.trees.Ranges",
    "vaekit.batch.Shape": "vaekit.contracts.trees.Shape",
    "vaekit.batch.Shapes": "vaekit.contracts.trees.Shapes",
    "vaekit.batch.Sizes": "vaekit.contracts.trees.Sizes",
    "vaekit.batch.Tree": "vaekit.contracts.trees.Tree",
    "vaekit.batch.each": "vaekit.contracts.trees.each",
    "vaekit.batch.entries_of": "vaekit.contracts.trees.entries_of",
    "vaekit.batch.first": "vaekit.contracts.trees.first",
    "vaekit.batch.flat": "vaekit.contracts.trees.flat",
    "vaekit.batch.leaves": "vaekit.contracts.trees.leaves",
    "vaekit.batch.like": "vaekit.contracts.trees.like",
    "vaekit.batch.shapes_of": "vaekit.contracts.trees.shapes_of",
    "vaekit.batch.within": "vaekit.contracts.trees.within",
    "vaekit.choice.data_named": "vaekit.cli.invocation.data_named",
    "vaekit.choice.module_for": "vaekit.data.module_for_path.module_for",
    "vaekit.choice.with_data": "vaekit.cli.invocation.with_module",
    "vaekit.concrete.Tempered": "vaekit.contracts.temperature.Tempered",
    "vaekit.contracts.model.Core": "vaekit.contracts.core.Core",
    "vaekit.contracts.parts.Decoder": "vaekit.contracts.decoder.Decoder",
    "vaekit.contracts.parts.Encoder": "vaekit.contracts.encoder.Encoder",
    "vaekit.contracts.parts.FittedPrior": "vaekit.contracts.prior.FittedPrior",
    "vaekit.contracts.parts.OtherSupport": "vaekit.contracts.prior.OtherSupport",
    "vaekit.contracts.parts.Posterior": "vaekit.contracts.posterior.Posterior",
    "vaekit.contracts.parts.Prior": "vaekit.contracts.prior.Prior",
    "vaekit.data.decode.Decoder": "vaekit.data.readers.images.ImageReader",
    "vaekit.data.idx.read_idx": "vaekit.data.readers.idx.read_idx",
    "vaekit.data.mat.Array": "vaekit.data.readers.mat.Array",
    "vaekit.data.mat.Shape": "vaekit.data.readers.mat.Shape",
    "vaekit.data.mat.read_mat": "vaekit.data.readers.mat.read_mat",
    "vaekit.data.steps.Steps": "vaekit.data.readers.sequences.SequenceFrame",
    "vaekit.decoders.MLPDecoder": "vaekit.networks.mlp.MLPDecoder",
    "vaekit.encoders.ConvEncoder": "vaekit.networks.conv.ConvEncoder",
    "vaekit.encoders.ResNetEncoder": "vaekit.networks.conv.ResNetEncoder",
    "vaekit.levels.Levels": "vaekit.contracts.discrete_values.ValueGrid",
    "vaekit.parsing.ConfigFile": "vaekit.cli.configs.ConfigFile",
    "vaekit.parsing.config_path": "vaekit.cli.configs.config_path",
    "vaekit.parsing.default_files": "vaekit.cli.configs.default_files",
    "vaekit.plugins.plugins": "vaekit.registry.plugins.list_plugins",
    "vaekit.posteriors.planar.Radial": "vaekit.posteriors.planar.RadialMap",
    "vaekit.priors.bounded.UniformBernoulli": "vaekit.priors.discrete.UniformBernoulli",
    "vaekit.priors.bounded.UniformCategorical": "vaekit.priors.discrete.UniformCategorical",
    "vaekit.radial.Radial": "vaekit.distributions.quadrature.RadialDensity",
    "vaekit.results.PredictionWriter": "vaekit.training.callbacks.predictions.PredictionWriter",
    "vaekit.resume.found": "vaekit.storage.runs.found",
    "vaekit.resume.own_folder": "vaekit.storage.runs.own_folder",
    "vaekit.schedules.check_weights": "vaekit.contracts.schedule.check_weights",
    "vaekit.schedules.final_weight": "vaekit.contracts.schedule.final_weight",
    "vaekit.schedules.weight_at": "vaekit.contracts.schedule.weight_at",
    "vaekit.sequences.Steps": "vaekit.networks.sequences.StepEmbedding",
    "vaekit.storage.RunLogger": "vaekit.storage.runs.RunLogger",
}
"""Old path -> new path of names that did not follow their module."""

_POSTERIORS, _PRIORS = "vaekit.posteriors.manifolds", "vaekit.priors.manifolds"
for _module in (_POSTERIORS, "vaekit.posteriors"):
    for _name in ("RiemannianNormal", "VonMisesFisher", "WrappedNormal"):
        NAMES[f"{_module}.{_name}"] = f"{_POSTERIORS}.{_name}Posterior"
for _module in (_PRIORS, "vaekit.priors"):
    NAMES[f"{_module}.UniformSphere"] = f"{_PRIORS}.UniformSpherePrior"


def new_path(path: str) -> str:
    """Returns the new path of a module or name of an earlier version; other paths unchanged.

    Example:
        >>> new_path("vaekit.encoders.MLPEncoder"), new_path("vaekit.batch.each")
        ('vaekit.networks.mlp.MLPEncoder', 'vaekit.contracts.trees.each')
    """
    if path in NAMES or path in MODULES:
        return NAMES.get(path) or MODULES[path]
    module, _, name = path.rpartition(".")
    return f"{MODULES[module]}.{name}" if module in MODULES else path


def moved_to(path: str) -> str | None:
    """Returns the new path of a module or name of an earlier version, or None if there is none."""
    now = new_path(path)
    home, _, name = now.rpartition(".")
    exists = now != path and (path in MODULES or hasattr(import_module(home), name))
    return now if exists else None


def missing_name(module: str, name: str) -> str:
    """Returns the error text for a name that a module lacks, with its new path if it has one."""
    now = moved_to(f"{module}.{name}")
    return (
        f"{module}.{name} is {now} now." if now else f"module {module!r} has no attribute {name!r}"
    )


class _OldModules(MetaPathFinder):
    """Raises an error with the new path for an import that all other finders failed to find.

    Its type is not ModuleNotFoundError, which `from package import name` would replace.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if not fullname.startswith("vaekit.") or moved_to(fullname) is None:
            return
        names: dict[str, list[str]] = {}
        for old, now in NAMES.items():
            if old.startswith(f"{fullname}."):
                (home, _, new), name = now.rpartition("."), old.removeprefix(f"{fullname}.")
                names.setdefault(home, []).append(name if name == new else f"{name} as {new}")
        listed = [f"In {home}: {', '.join(moved)}." for home, moved in names.items()]
        package, _, name = fullname.rpartition(".")
        raise ImportError(" ".join([missing_name(package, name), *listed]), name=fullname)


class _ChangedModules(MetaPathFinder):
    """Gives the files that still exist, but lost some names, an error with the new path."""

    files = frozenset({name.rpartition(".")[0] for name in NAMES} - set(MODULES))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in self.files else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def get(name: str) -> Any:
            # An ImportError, since `from module import name` drops the text of an AttributeError.
            error = ImportError if moved_to(f"{fullname}.{name}") else AttributeError
            raise error(missing_name(fullname, name))

        def exec_module(module: ModuleType) -> None:
            vars(module)["__getattr__"] = get
            execute(module)

        vars(spec.loader)["exec_module"] = exec_module
        return spec


def report_moved_names() -> None:
    """Lets an import by an old path raise an error with the new path."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ChangedModules())
        sys.meta_path.append(_OldModules())
