import unittest
from datetime import datetime

from studio_booking.refunds import refund_cents

START = datetime(2026, 11, 24, 17, 30)


class Refunds(unittest.TestCase):
    def test_in_full_the_night_before(self):
        self.assertEqual(refund_cents(1800, START, datetime(2026, 11, 23, 20, 0)), 1800)

    def test_by_half_on_the_same_afternoon(self):
        self.assertEqual(refund_cents(1800, START, datetime(2026, 11, 24, 15, 0)), 900)

    def test_nothing_when_it_has_begun(self):
        self.assertEqual(refund_cents(1800, START, START), 0)


if __name__ == "__main__":
    unittest.main()
