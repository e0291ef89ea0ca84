"""How many constraints a model's answers follow (`corpora.tasks.constraints`), without a judge."""

from limbeck.probes.constraints.answers import answered
from limbeck.probes.constraints.items import Item, read_items
from limbeck.probes.constraints.score import by_chance, followed

__all__ = ["Item", "answered", "by_chance", "followed", "read_items"]
