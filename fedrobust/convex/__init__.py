"""Convex adversarial training of two-layer networks: a proven optimum, and exact certificates of robustness.

Polynomial networks and their lifted variables, exact worst cases, certificates and bounds, problems and solutions.
`solvers` has the solvers of the polynomial programme, each with a certified lower bound; `relu_programme`,
`relu_solvers` and `relu_dual` do the same over sampled activation patterns. docs/convex.md has the formulas and the
measurements.

`models`, `deploy` and the packages above may import it.
"""
