"""The recipe of the text-to-image demo: a small diffusion model of emoji, a reward that reads texts, and a judge."""
