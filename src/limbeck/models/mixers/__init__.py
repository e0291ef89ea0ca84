"""Sequence mixers: the parts of a decoder's layers in which tokens read earlier tokens. One file each, with paper, equation."""
