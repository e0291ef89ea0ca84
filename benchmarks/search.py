"""CPU seconds in which `limbeck plan --bytes` counts all legal shapes of students of a teacher of 7B: 13 million."""

from __future__ import annotations

import time

from limbeck.jobs.plan.search import count_all, search
from limbeck.models.declared import declared
from limbeck.students.shape import Budget

QWEN = {  # Qwen2.5-7B
    "model_type": "qwen2",
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": False,
}


def main() -> None:
    """Prints a row for each format."""
    anatomy = declared(QWEN)
    assert anatomy is not None
    print("budget, legal shapes, within it, CPU s to count, CPU s of the whole search, shapes on the front")
    for budget in (Budget(3_000_000_000, "float16"), Budget(1_000_000_000, "q8_0"), Budget(500_000_000, "q4_0")):
        start = time.process_time()
        legal, within = count_all(anatomy, budget)
        counted = time.process_time()
        front = search([anatomy], budget, 4096).front
        print(
            f"{budget}, {legal:,}, {within:,}, {counted - start:.2f}, {time.process_time() - counted:.2f}, {len(front)}"
        )


if __name__ == "__main__":
    main()
