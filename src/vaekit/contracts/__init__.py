"""The contracts: the base of every kind of plugin, and what its calls are held to."""

from vaekit.contracts.likelihood import Likelihood, OutOfRange
from vaekit.contracts.model import Core, Objective
from vaekit.contracts.parts import Decoder, Encoder, FittedPrior, OtherSupport, Posterior, Prior

__all__ = [
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
]

for _name in __all__:  # what a message calls them, whichever file they lie in
    globals()[_name].__module__ = __name__
