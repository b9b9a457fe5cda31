"""Uses of the probability flow other than sampling: inversion, likelihoods, interpolation, couplings."""
