"""The values that the rest of towline speaks in: no input, no output, valid by construction."""
