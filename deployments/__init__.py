"""How Errata runs: services, schedules and the demo."""
