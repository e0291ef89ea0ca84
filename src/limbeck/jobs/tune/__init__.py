"""`limbeck tune`: a trained model is trained further, all of it or adapters, and measured before and after."""
