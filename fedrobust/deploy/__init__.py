"""Real machines: keys, the check of a client's machine, and submission of a run."""
