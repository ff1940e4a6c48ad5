"""Advice: which method, with which settings, for a goal, a set of pictures, a base, a machine; and on what evidence."""
