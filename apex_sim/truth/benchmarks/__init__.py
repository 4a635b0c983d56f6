"""What did a user's own benchmark measure?  One file per tool; all give the same value."""
