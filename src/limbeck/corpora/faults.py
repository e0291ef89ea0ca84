"""What of a text cannot be read: all of it is looked at before a run stops, so that a user mends it once."""

from __future__ import annotations

from limbeck.errors import BadCorpus, BadRecord

SHOWN = 10
_HOPELESS = 100  # faulty records before the first that is read: then it is no few


class BadRecords:
    """The faulty records of a text, counted; the first are kept with their places. At most ``most`` are skipped."""

    def __init__(self, most: int = 0) -> None:
        self.most, self.count = most, 0
        self.first: list[str] = []
        self._read = False

    def good(self) -> None:
        """Told of a record that was read."""
        self._read = True

    def add(self, error: BadRecord) -> None:
        """Told of one that was not. Raises BadCorpus where all of the first hundred are faulty."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(str(error))
        if not self._read and self.count >= max(_HOPELESS, self.most + 1):
            raise BadCorpus(self._said(f"none of the first {self.count:,} records can be read"))

    def check(self) -> None:
        """Raises BadCorpus where more are faulty than may be skipped, with the first of them."""
        if self.count > self.most:
            allowed = f", and --skip-bad {self.most} lets {self.most:,} be skipped" if self.most else ""
            what = "1 record" if self.count == 1 else f"{self.count:,} records"
            raise BadCorpus(
                self.first[0]
                if self.count == 1 and not self.most
                else self._said(
                    f"{what} cannot be read{allowed}. Repair or remove them, or give --skip-bad {self.count}"
                )
            )

    def _said(self, what: str) -> str:
        more = self.count - len(self.first)
        return "\n  ".join([f"{what}:", *self.first, *([f"and {more:,} more"] if more else [])])
