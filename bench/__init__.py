"""What the gateway costs, beside others that do the same work. `scripts/bench --help`; the method is in
docs/performance.md, every contestant's configuration in peers/."""
