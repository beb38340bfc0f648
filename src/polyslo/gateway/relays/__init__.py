"""A request on its way to engines and back: bytes in both directions, and who hears of it."""
