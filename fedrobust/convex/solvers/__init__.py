"""Solvers of one programme: `solve_sdp` and `solve_cutting_set` (cvxpy), `solve_first_order` (PyTorch, any size)."""
