"""GGUF, the format of llama.cpp: weights, tokenizer and settings in one file, beside a Modelfile for Ollama."""
