"""Fleets of stand-in engines behind several balancers at one time: `scripts/bench fleet`."""
