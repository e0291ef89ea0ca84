"""usage: tell.py FILE.gguf BEGINNING: llama.cpp goes on with a text, through its Python package."""

import sys
import textwrap

import xllamacpp

file, beginning = sys.argv[1:]
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.verbosity = file, 1024, 1  # of what llama.cpp logs, the errors
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1  # its threads wait busily, and the model is small
answer = xllamacpp.Server(settings).handle_completions(
    {"prompt": beginning, "max_tokens": 200, "temperature": 0.7, "seed": 0}
)
print(f"\nllama.cpp goes on with {beginning!r} (temperature 0.7):\n")
for paragraph in (beginning + answer["choices"][0]["text"]).splitlines():
    print(textwrap.fill(paragraph, 100, initial_indent="  ", subsequent_indent="  "))
print()
