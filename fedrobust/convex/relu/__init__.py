"""Two-layer ReLU networks over sampled activation patterns: the programme, its networks, solvers and lower bounds."""
