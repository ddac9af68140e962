"""The folder of models: Ollama's own layout, and beside it what a pull needs (section 4 of the contract)."""
