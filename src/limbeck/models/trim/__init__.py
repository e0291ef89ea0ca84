"""A trimmed vocabulary: the tokens that a text needs of a tokenizer, and a model with the rows of these alone."""
