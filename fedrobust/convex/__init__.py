"""Convex adversarial training of two-layer networks: a proven optimum, and exact certificates of robustness.

Polynomial activations: `solve_sdp` and `solve_cutting_set` (cvxpy) and `solve_first_order` (PyTorch, any size)
minimise the same programme and return a `Solution` with its certified lower bound; `certificates` says what a network
guarantees. docs/convex.md has the formulas and what was measured.
"""
