"""GGUF, the file format of llama.cpp: what its keys, tensors and tokenizers are in Transformers, both ways, and the import."""
