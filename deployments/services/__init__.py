"""The services that production needs, on this machine: `python -m deployments.services up|down|status`."""
