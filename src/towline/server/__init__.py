"""The daemon's face: aiohttp, one module a group of endpoints. Only `errors` knows statuses of exceptions."""
