"""The compiled engine: the reference's semantics over plain arrays, many steps at a time where nothing changes."""
