"""The guard against overfitting: what is measured (`probe`), and what the numbers mean (`judge`)."""
