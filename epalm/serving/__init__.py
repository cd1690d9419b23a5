"""Serving many requests with one model: what waits is computed together."""

from epalm.serving.scheduler import Busy, Scheduler, Ticket

__all__ = ["Busy", "Scheduler", "Ticket"]
