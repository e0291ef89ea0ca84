"""Distils the teacher that comes with limbeck and prints how its student compares, from Python.

usage: python examples/first_student.py [TOKENS]
"""

import sys

import limbeck


def main(tokens: str = "200k") -> None:
    """Distils a student and prints its verdict and readings."""
    result = limbeck.distil(text_tokens="40k", tokens=tokens, baselines="cut+ce", out="runs/first-student")
    print(result.verdict)
    for model, readings in result.readings.items():
        if found := readings.get("held_out"):
            print(f"{model:10} {found.value:.3f} nats per token ({found.low:.3f} to {found.high:.3f}), n = {found.n}")
    print(f"The student is an ordinary Hugging Face folder: {result.student}")


if __name__ == "__main__":
    main(*sys.argv[1:])
