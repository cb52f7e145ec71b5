"""The logistic loss on the worst case against every rival, for classes that a network rarely separates surely."""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from fedrobust.convex.dual import largest_response, moments
from fedrobust.convex.factors import lifted_of, random_factors
from fedrobust.convex.margins import combined, comparisons, of_pair
from fedrobust.convex.network import Lifted
from fedrobust.convex.problem import Programme, Solution, solution
from fedrobust.seeding import torch_stream

BOUND_EVERY = 10  # evaluations between lower bounds


class LogisticProblem(Programme):
    """The programme with loss_i = log(1 + Σ_{k≠y} exp(−w_ik)), w_ik = min over ‖δ‖₂ ≤ r of f_y(x_i + δ) − f_k(x_i + δ).

    Each w_ik is concave in (Z, Z′), so that the loss is convex: an upper bound on the worst cross-entropy in the ball,
    in which one δ serves for all rivals. Limit case: r = 0, the cross-entropy. The hinge of the worst rival is least
    for f = 0 wherever no class has a probability of a half (Tewari and Bartlett 2007); this loss is not.
    """

    loss = "logistic"

    def objective(self, lifted: Lifted) -> float:
        """Return the value at a network, its worst cases taken exactly."""
        return Logistic(self, lifted).objective


class Logistic:
    """The loss at a network, and the dual variables computed with it.

    With p_ik = exp(−w_ik) / (1 + Σ_l exp(−w_il)), the gradient by w_ik is −p_ik/n (Danskin), so that the moments of the
    worst points, weighted by p_ik/n, hold the whole gradient. Memory n · (d + C) + C · d².
    """

    @torch.no_grad()
    def __init__(self, problem: LogisticProblem, lifted: Lifted) -> None:
        x, forms = problem.x.to(lifted.positive), lifted.forms
        margin = torch.full((len(x), len(forms)), torch.inf, dtype=x.dtype, device=x.device)
        pairs = []
        for weights, index, sign in comparisons(problem.y, len(forms)):
            rival = rivals(weights, sign)
            contrast = sign.to(x.dtype)[:, None] * x.new_tensor(weights)
            found = of_pair(combined(x.new_tensor(weights), forms), x[index], sign.to(x.dtype), problem.radius)
            margin[index, rival] = found.value
            pairs.append((index, rival, contrast, found.point))
        zero = torch.zeros_like(margin[:, :1])
        log_sum = torch.logsumexp(torch.cat([zero, -margin], 1), 1)
        self.objective = float(log_sum.mean() + problem.beta * lifted.path_norm)
        self.shares = (-margin - log_sum[:, None]).exp()
        parts = (moments(self.shares[i, rival] / len(x), c, point) for i, rival, c, point in pairs)
        self.moment = torch.stack(list(parts)).sum(0)

    def lower_bound(self, problem: LogisticProblem) -> float:
        """Return a lower bound on the global optimum; it holds for every network at which it is computed.

        By `entropy` the objective is at least (1/n) Σ S(q_i) wherever the response of q/n is at most β: q = t p, t ≤ 1
        (`dual`).
        """
        response = largest_response(self.moment.double(), problem.activation)
        scale = min(1.0, problem.beta / response) if response > 0 else 1.0
        return float(entropy(scale * self.shares.double()).mean())


def rivals(weights: list[int], sign: Tensor) -> Tensor:
    """Return the column [n] of a sample's rival in a comparison: k for samples of j, j for those of k; 0 for two
    classes.
    """
    return torch.where(sign > 0, weights.index(min(weights)), weights.index(max(weights)))


def entropy(shares: Tensor) -> Tensor:
    """Compute the entropy S of (q, 1 − Σ_k q_k), [n], of q ≥ 0 [n, K]: log(1 + Σ_k exp(−w_k)) ≥ S(q) − Σ_k q_k w_k for
    all w.
    """
    rest = (1 - shares.sum(1, keepdim=True)).clamp(min=0)
    return torch.special.entr(torch.cat([shares, rest], 1)).sum(1)


def solve_logistic(problem: LogisticProblem, *, steps: int = 300, tolerance: float = 1e-2, seed: int = 0) -> Solution:
    """Minimise over the neurons of a network of 2 (d + 1) units per function by L-BFGS; CPU or GPU.

    The loss is smooth. The result does not rely on the absence of other local minima: it comes with a lower bound.

    Args:
        steps: largest number of steps of L-BFGS.
        tolerance: relative gap at which the solution counts as optimal and the solver stops.
    """
    started = perf_counter()
    generator = torch_stream(seed, "convex", "neurons")
    factors = random_factors(problem.functions, problem.x.shape[1], generator).to(problem.x).requires_grad_()
    best, objective, bound, evaluations = factors.detach().clone(), float("inf"), 0.0, 0

    def closure() -> Tensor:
        nonlocal best, objective, bound, evaluations
        lifted = lifted_of(factors, problem.activation)
        found = Logistic(problem, lifted)
        if found.objective < objective:
            best, objective = factors.detach().clone(), found.objective
        if evaluations % BOUND_EVERY == 0:
            bound = max(bound, found.lower_bound(problem))
        evaluations += 1
        # the gradient of the loss, though not its value
        surrogate = problem.beta * lifted.path_norm - (found.moment * lifted.forms).sum()
        (factors.grad,) = torch.autograd.grad(surrogate, factors)
        return factors.new_tensor(found.objective)

    optimizer = torch.optim.LBFGS([factors], max_iter=BOUND_EVERY, history_size=20, line_search_fn="strong_wolfe")
    for _ in range(-(-steps // BOUND_EVERY)):
        optimizer.step(closure)
        if objective - bound <= tolerance * objective:
            break
    found = solution(problem, lifted_of(best.double(), problem.activation), bound, started=started, rounds=evaluations)
    return found.judged(tolerance, "steps done")
