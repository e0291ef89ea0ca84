"""Reports of a run: the verdict in words, one self-contained HTML page, a model card."""
