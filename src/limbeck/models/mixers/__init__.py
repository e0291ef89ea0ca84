"""Sequence mixers: the part of a decoder layer that combines tokens over time. Each file names its paper and equation."""
