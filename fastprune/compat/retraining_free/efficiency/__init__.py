"""What units cost, as MACs and as measured latencies."""
