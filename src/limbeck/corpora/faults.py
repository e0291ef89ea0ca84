"""Collects the faulty records of a dataset. The whole dataset is read before the error, so that a user repairs it once."""

from __future__ import annotations

from typing import Any

from limbeck.errors import BadCorpus, BadRecord

SHOWN = 10
_HOPELESS = 100  # faulty records without a good one, after which reading stops


class BadRecords:
    """Counts the faulty records of a dataset, and keeps the messages of the first ten. At most ``most`` are skipped."""

    def __init__(self, most: int = 0) -> None:
        self.most, self.count = most, 0
        self.first: list[str] = []
        self._read = False

    def good(self) -> None:
        """Notes that a record was read."""
        self._read = True

    def add(self, error: BadRecord) -> None:
        """Counts a faulty record. Raises BadCorpus where all of the first hundred are faulty."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(str(error))
        if not self._read and self.count >= max(_HOPELESS, self.most + 1):
            raise BadCorpus(self._listed(f"none of the first {self.count:,} records can be read"))

    def check(self) -> None:
        """Raises BadCorpus, with the first messages, where more records are faulty than may be skipped."""
        if self.count > self.most:
            allowed = f", and --skip-bad {self.most} lets {self.most:,} be skipped" if self.most else ""
            what = "1 record" if self.count == 1 else f"{self.count:,} records"
            raise BadCorpus(
                self.first[0]
                if self.count == 1 and not self.most
                else self._listed(
                    f"{what} cannot be read{allowed}. Repair or remove them, or give --skip-bad {self.count}"
                )
            )

    def state(self) -> dict[str, Any]:
        """What was counted so far, for JSON."""
        return {"count": self.count, "first": self.first, "good": self._read}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from an earlier state."""
        self.count, self.first, self._read = state["count"], list(state["first"]), state["good"]

    def _listed(self, what: str) -> str:
        more = self.count - len(self.first)
        return "\n  ".join([f"{what}:", *self.first, *([f"and {more:,} more"] if more else [])])
