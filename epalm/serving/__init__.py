"""Serve many requests with one model: waiting requests are computed together."""

from epalm.serving.scheduler import Busy, Scheduler, Ticket

__all__ = ["Busy", "Scheduler", "Ticket"]
