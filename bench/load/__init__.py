"""What makes the load; its CPU is never counted."""
