"""Figures, tables and pages of runs, evaluations and convex studies. Only this package imports matplotlib.

`studies` and the packages above may import it.
"""
