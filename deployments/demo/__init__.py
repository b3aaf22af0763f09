"""Thirty requests that show the whole way from intake to review: candidates.json, of which requests.jsonl is made."""
