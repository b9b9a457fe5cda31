"""The recipe of the demo's three models: an unconditional denoiser of handwritten digits, a reward and a judge."""
