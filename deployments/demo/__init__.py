"""Thirty requests that show the whole way from intake to review; see requests.jsonl."""
