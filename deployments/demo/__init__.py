"""Thirty requests that show the whole way from intake to review: candidates.json, of which requests.jsonl is made."""

from pathlib import Path

CANDIDATES = Path(__file__).parent / "candidates.json"
REQUESTS = Path(__file__).parent / "requests.jsonl"
