"""Advice: which method, with which settings, for a goal, a set of images, a base, a machine; and on what evidence."""
