"""Captions that a model writes: sentences by transformers, tags by a WD tagger; how they join what is there.

It knows images as pixels and captions as text, and no folder of images and no training.
"""
