"""Decisions about versions, and questions to them."""
