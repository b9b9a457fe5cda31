"""What each draw of a steered chain is for: numbers of `steering.numerics.noise` that are used once.

The splitting that explores and the fit of log h have draws of their own in each round, so that a run of fresh paths
never meets the noise that its log h was fitted on.
"""

FIT, TRY, MOVE, PICK, RESAMPLE, KEEP, PARENTS, SPLIT = 1000, 1500, 2000, 3000, 4000, 5000, 6000, 10_000
"""The first draw of each; rounds, and iterations of a splitting, are added."""
