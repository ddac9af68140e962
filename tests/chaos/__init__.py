"""Faults made for real, at random moments, many times: `make chaos`, and a short form of it among the tests."""
