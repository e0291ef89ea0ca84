"""`limbeck pilot`: a ladder of small trainings on the user's data, from which the best teacher's size is fitted."""

from limbeck.jobs.pilot.job import pilot

__all__ = ["pilot"]
