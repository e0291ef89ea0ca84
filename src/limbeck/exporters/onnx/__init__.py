"""ONNX: one graph that reads a prompt and continues it, for onnxruntime and what stands on it."""
