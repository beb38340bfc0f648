"""Engines behind one address each: the emulated one."""
