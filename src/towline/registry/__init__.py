"""Asking a registry what a model is and where its bytes are (section 5 of the contract)."""
