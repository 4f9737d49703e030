"""What stands in for model servers; its CPU is never counted."""
