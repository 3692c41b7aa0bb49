"""A desk to and from one JSON file."""

import json
from datetime import datetime

from .desk import Desk
from .model import Session


def save(desk, path):
    """Write the desk into the file."""
    sessions = [
        {
            "id": session.id,
            "starts_at": session.starts_at.isoformat(),
            "capacity": session.capacity,
            "price_cents": session.price_cents,
            "booked": desk.booked[session.id],
        }
        for session in desk.sessions.values()
    ]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"version": 1, "sessions": sessions}, file, indent=2)


def load(path):
    """Return the desk that the file holds."""
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    desk = Desk()
    for entry in data["sessions"]:
        desk.add(
            Session(
                id=entry["id"],
                starts_at=datetime.fromisoformat(entry["starts_at"]),
                capacity=entry["capacity"],
                price_cents=entry["price_cents"],
            )
        )
        desk.booked[entry["id"]] = list(entry["booked"])
    return desk
