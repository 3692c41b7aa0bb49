import unittest
from datetime import datetime

from studio_booking import Desk, NotBooked, Session, Status, UnknownSession

START = datetime(2026, 11, 24, 17, 30)
EARLY = datetime(2026, 11, 24, 1, 0)


def desk(capacity):
    desk = Desk()
    desk.add(Session("tc-tue-w12", START, capacity=capacity, price_cents=1800))
    return desk


def fill_until_one_waits(desk):
    number = 1
    while desk.book(f"student-{number}", "tc-tue-w12") is not Status.WAITING:
        number += 1
    return f"student-{number}"


class Booking(unittest.TestCase):
    def test_a_place_is_booked(self):
        self.assertEqual(desk(12).book("emma", "tc-tue-w12"), Status.BOOKED)

    def test_when_it_is_full_students_wait(self):
        d = desk(2)
        statuses = [d.book(name, "tc-tue-w12") for name in ("emma", "noah", "priya", "lucas")]
        self.assertEqual(statuses[0], Status.BOOKED)
        self.assertEqual(statuses[-1], Status.WAITING)

    def test_booking_again_changes_nothing(self):
        d = desk(2)
        d.book("emma", "tc-tue-w12")
        d.book("emma", "tc-tue-w12")
        self.assertEqual(d.roster("tc-tue-w12"), ["emma"])

    def test_an_unknown_session_is_refused(self):
        with self.assertRaises(UnknownSession):
            desk(2).book("emma", "tc-wed-w12")

    def test_a_session_needs_a_place(self):
        with self.assertRaises(ValueError):
            desk(0)


class Cancellation(unittest.TestCase):
    def test_the_waiting_student_moves_up(self):
        d = desk(2)
        last = fill_until_one_waits(d)
        d.cancel("student-1", "tc-tue-w12", EARLY)
        self.assertIn(last, d.roster("tc-tue-w12"))
        self.assertNotIn("student-1", d.roster("tc-tue-w12"))

    def test_who_is_not_there_can_not_cancel(self):
        with self.assertRaises(NotBooked):
            desk(1).cancel("emma", "tc-tue-w12", EARLY)


if __name__ == "__main__":
    unittest.main()
