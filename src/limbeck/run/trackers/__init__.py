"""Trackers: programs of others that draw the curves of a training while it runs, one file each.

A tracker gets the rows of metrics.jsonl and held_out.jsonl; it decides nothing, and a training goes on without one that fails.
"""

from limbeck.run.trackers.tracker import Tracked, Tracker, TrackerName, require_tracker, tracking

__all__ = ["Tracked", "Tracker", "TrackerName", "require_tracker", "tracking"]
