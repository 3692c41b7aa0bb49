import os
import tempfile
import unittest
from datetime import datetime

from studio_booking import Desk, Session
from studio_booking.store import load, save


class Store(unittest.TestCase):
    def test_bookings_are_there_again(self):
        desk = Desk()
        desk.add(Session("jf-wed-w12", datetime(2026, 11, 25, 18, 0), capacity=12, price_cents=1500))
        desk.book("emma", "jf-wed-w12")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "desk.json")
            save(desk, path)
            self.assertEqual(load(path).roster("jf-wed-w12"), ["emma"])


if __name__ == "__main__":
    unittest.main()
