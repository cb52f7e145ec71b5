"""Convex adversarial training of two-layer networks: a proven optimum, and exact certificates of robustness.

Here: polynomial networks and their lifted variables, exact worst cases, certificates and bounds, and what a problem
and its solution are. `solvers`: of the polynomial programme, each returning a `Solution` with a certified lower bound.
`relu`: the same over sampled activation patterns. `study`: what `fedrobust convex` trains, on what, against whom.
docs/convex.md has the formulas and what was measured.
"""
