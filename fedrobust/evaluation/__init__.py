"""Natural and robust accuracy, measured in one way by the server, the clients and `fedrobust evaluate`."""

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
