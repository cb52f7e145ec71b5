"""Real machines: their keys (`certificates`), the check of a client's machine (`doctor`), and the submission of a run
(`submit`).

`objectives`, `evaluation` and the packages above may import it.
"""
