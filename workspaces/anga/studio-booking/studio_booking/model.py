"""What the other modules talk about."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class Status(Enum):
    """How a student stands in a session."""

    BOOKED = "booked"
    WAITING = "waiting"


@dataclass(frozen=True)
class Session:
    """One class on one day."""

    id: str
    starts_at: datetime
    capacity: int
    price_cents: int

    def __post_init__(self):
        if self.capacity < 1:
            raise ValueError(f"session {self.id}: capacity must be at least 1, not {self.capacity}")
        if self.price_cents < 0:
            raise ValueError(f"session {self.id}: price can't be below 0")


class UnknownSession(KeyError):
    """There is no session of that id."""


class NotBooked(KeyError):
    """The student is neither booked nor waiting in that session."""
