"""The contracts: the base class of each kind of plugin, its inputs, and its checks."""

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.core import Core
from vaekit.contracts.decoder import Decoder
from vaekit.contracts.discrete_values import ValueGrid
from vaekit.contracts.draw import Draw, Level
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.likelihood import Likelihood, OutOfRange
from vaekit.contracts.objective import Objective
from vaekit.contracts.part import (
    Build,
    FullPrecisionPart,
    Infer,
    LogJoint,
    Noise,
    Part,
    Spec,
    frozen,
    learns,
    still,
)
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.prior import FittedPrior, OtherSupport, Prior
from vaekit.contracts.schedule import Schedule, final_weight, weight_at
from vaekit.contracts.temperature import Tempered
from vaekit.contracts.trees import Shape, Shapes, Sizes, Tree, each, first, leaves
from vaekit.distributions.base import Joint, normal, rate, sample_and_log_prob, soft_clamp
from vaekit.distributions.factors import factor_rates
from vaekit.numerics.distributed import gather_over_ranks, mean_over_ranks, sum_over_ranks
from vaekit.numerics.precision import at_least_float32, full_precision

__all__ = [
    "Batch",
    "Build",
    "Core",
    "DataInfo",
    "Decoder",
    "Draw",
    "Encoder",
    "FittedPrior",
    "FullPrecisionPart",
    "Infer",
    "Joint",
    "Level",
    "Likelihood",
    "LogJoint",
    "Noise",
    "Objective",
    "OtherSupport",
    "OutOfRange",
    "Part",
    "Posterior",
    "Prior",
    "Schedule",
    "Shape",
    "Shapes",
    "Sizes",
    "Spec",
    "Tempered",
    "Tree",
    "ValueGrid",
    "at_least_float32",
    "each",
    "factor_rates",
    "final_weight",
    "first",
    "frozen",
    "full_precision",
    "gather_over_ranks",
    "learns",
    "leaves",
    "mean_over_ranks",
    "normal",
    "rate",
    "sample_and_log_prob",
    "soft_clamp",
    "still",
    "sum_over_ranks",
    "weight_at",
]

for _name in [
    "Core",
    "Decoder",
    "Encoder",
    "FittedPrior",
    "Likelihood",
    "Objective",
    "OtherSupport",
    "OutOfRange",
    "Posterior",
    "Prior",
    "Schedule",
]:
    globals()[_name].__module__ = __name__  # the path that messages print
