"""Teachers on servers: the HTTP client, the protocols of vLLM, SGLang and OpenAI, and the teacher that uses them."""
