"""Text generation: with a local model in batches, greedily one prompt at a time, or on a server."""
