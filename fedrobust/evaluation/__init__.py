"""Natural and robust accuracy: how the server, a client and `fedrobust evaluate` measure a model, all alike."""

from fedrobust.evaluation.accuracy import Evaluation, evaluate
from fedrobust.evaluation.suite import EvaluationAttack, Stage, Threat, make_chain, make_suite, parse_attack

__all__ = [
    "Evaluation",
    "EvaluationAttack",
    "Stage",
    "Threat",
    "evaluate",
    "make_chain",
    "make_suite",
    "parse_attack",
]
