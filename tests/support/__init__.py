"""What the tests share: models, registries, links and daemons, real ones and ones that fail on request."""
