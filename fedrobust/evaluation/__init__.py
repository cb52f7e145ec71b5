"""Natural and robust accuracy: how a model is measured, by the server and by a client alike."""

from fedrobust.evaluation.accuracy import Evaluation, evaluate
from fedrobust.evaluation.suite import EvaluationAttack, make_suite, parse_attack

__all__ = ["Evaluation", "EvaluationAttack", "evaluate", "make_suite", "parse_attack"]
