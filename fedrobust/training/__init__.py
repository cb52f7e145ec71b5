"""Training on one set of images: the loop, the context of a process, and a central run's optimiser.

`studies` and the packages above may import it.
"""
