"""Sequence mixers: how a decoder's layer lets its tokens read those before them. One file a mixer, with paper and equation."""
