"""The studies of `fedrobust convex`: samples, networks at several radii (`radii`) with their `baselines`, and heads for
trained networks (`heads`, `head_study`).

`studies` and the packages above may import it.
"""
