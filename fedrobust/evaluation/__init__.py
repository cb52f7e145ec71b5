"""Natural and robust accuracy, measured in one way by the server, the clients and `fedrobust evaluate`.

`suite` names the attacks, `verdicts` runs them, `accuracy` and `assessment` summarise them; `checks` and `flags` warn
of numbers that should not be trusted. `training`, `convex_study`, `reports` and the packages above may import it.
"""

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
