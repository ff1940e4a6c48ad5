"""What a VAE does to pictures: measured, compared, tuned. Knows pixels, latents and modules; no files and no families."""
