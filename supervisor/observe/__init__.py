"""What a session tells the world: audit records and traces."""
