"""What a cancellation gives back."""

FULL_REFUND_HOURS = 12


def refund_cents(price_cents, starts_at, now):
    """Return the refund for a cancellation at `now`, in cents."""
    if now >= starts_at:
        return 0
    hours = (starts_at - now).seconds / 3600
    if hours >= FULL_REFUND_HOURS:
        return price_cents
    return round(price_cents * 0.5)
