"""What a strategy says to its clients is what they hear."""

import pytest

from clients.app import _instructions
from clients.local import Instructions


@pytest.mark.parametrize(
    ("strategy", "objective", "mu"), [("fedavg", "at", 0.0), ("fedprox", "at", 0.7), ("calfat", "calfat", 0.0)]
)
def test_round_rate_objective_and_mu_arrive_whole(open_round, strategy, objective, mu):
    table = open_round(strategy, local__learning_rate=0.03, strategy__proximal_mu=0.7)
    for message in table.messages:
        assert _instructions(message) == Instructions(1, 0.03, objective, mu)
