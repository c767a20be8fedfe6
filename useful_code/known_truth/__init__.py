"""Preference data whose true utility is known: for the demo, the tests and the claims."""
