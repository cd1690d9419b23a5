"""Serve many requests with one model: waiting requests are computed together."""

from epalm.serving.scheduler import Scheduler
from epalm.serving.ticket import Busy, Ticket

__all__ = ["Busy", "Scheduler", "Ticket"]
