"""What the probability flow is good for beside sampling: inversion, likelihoods, interpolation, couplings."""
