"""Reports of a run: the verdict in words, one self-contained HTML page, a model card."""

from limbeck.report.card import model_card
from limbeck.report.family import write_family_report
from limbeck.report.page import write_report
from limbeck.report.verdict import Difference, Verdict, verdict

__all__ = ["Difference", "Verdict", "model_card", "verdict", "write_family_report", "write_report"]
