"""The rules about places and waiting lists."""

from .model import NotBooked, Status, UnknownSession
from .refunds import refund_cents


class Desk:
    """All sessions, who is booked, and who waits."""

    def __init__(self):
        self.sessions = {}
        self.booked = {}
        self.waiting = {}

    def add(self, session):
        """Add a session; one that is there already is replaced and keeps its bookings."""
        self.sessions[session.id] = session
        self.booked.setdefault(session.id, [])
        self.waiting.setdefault(session.id, [])

    def session(self, session_id):
        """Return the session of that id."""
        try:
            return self.sessions[session_id]
        except KeyError:
            raise UnknownSession(session_id) from None

    def book(self, student, session_id):
        """Book a place, or a place on the waiting list. Booking again changes nothing."""
        session = self.session(session_id)
        booked = self.booked[session_id]
        if student in booked:
            return Status.BOOKED
        if len(booked) <= session.capacity:
            booked.append(student)
            return Status.BOOKED
        self.waiting[session_id].append(student)
        return Status.WAITING

    def cancel(self, student, session_id, now):
        """Give up a place, booked or waiting. Return the refund in cents."""
        session = self.session(session_id)
        if student in self.waiting[session_id]:
            self.waiting[session_id].remove(student)
            return 0
        if student not in self.booked[session_id]:
            raise NotBooked(student)
        self.booked[session_id].remove(student)
        if self.waiting[session_id]:
            self.booked[session_id].append(self.waiting[session_id].pop())
        return refund_cents(session.price_cents, session.starts_at, now)

    def roster(self, session_id):
        """Return who is booked, in the order of booking."""
        self.session(session_id)
        return list(self.booked[session_id])
