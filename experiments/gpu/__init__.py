"""What a GPU has to show, and what can be known of it without one."""
