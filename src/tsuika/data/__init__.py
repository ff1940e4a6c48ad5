"""Images in: folder -> `scan` -> `bucket.assign` -> `bank.fill` -> `Bank.batch(step, batch_size, seed)`.

Knows no model, method or file format; what it needs of a model (the VAE's `encode`, pixel steps) is passed in.
"""
