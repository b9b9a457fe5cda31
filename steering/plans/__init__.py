"""Plans: solvers compiled to tables of float64 coefficients, before anything is sampled."""
