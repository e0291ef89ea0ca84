"""Models that continue texts: here in batches, greedily with a cache, or on a server."""
