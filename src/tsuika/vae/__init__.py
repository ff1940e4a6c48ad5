"""What a VAE does to images: measured, compared, tuned. Knows pixels, latents and modules; no files and no families."""
