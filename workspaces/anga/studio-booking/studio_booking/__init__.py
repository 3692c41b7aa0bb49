"""Books dancers into classes."""

from .desk import Desk
from .model import NotBooked, Session, Status, UnknownSession

__all__ = ["Desk", "NotBooked", "Session", "Status", "UnknownSession"]
