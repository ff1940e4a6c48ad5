"""The making of the embedded base from nothing: tokenizer, VAE, then text encoder and UNet together.

Deterministic on one machine: every picture, noise and timestep is a function of (seed, step), so a killed run goes on
from its last checkpoint to the same weights. Every picture is drawn fresh from the world (`world.py`); a drawn picture
serves a few noisy views and is forgotten.

Shapes: B pictures, C channels, H x W pixels or latents, S tokens, D text width.
"""
