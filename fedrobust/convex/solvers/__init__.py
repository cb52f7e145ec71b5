"""Solvers of the polynomial programme: `solve_sdp` and `solve_cutting_set` (cvxpy), `solve_first_order` (PyTorch, any
size). The packages that may import `convex` may import it.
"""
