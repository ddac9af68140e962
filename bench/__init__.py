"""What towline takes, in seconds and bytes, beside what it could take: `make bench`.

A figure is a module of `bench.figures` that measures and returns rows; everything beside it is what they share. Nothing
here is part of towline, and nothing of towline knows it.
"""
