"""The recipe of the 3-D demo's model: a denoiser of rendered chairs and mugs that is told the object and the camera."""
