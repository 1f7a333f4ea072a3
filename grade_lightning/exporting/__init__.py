"""What a finished run's weights need to be used elsewhere: files that load by themselves, a card that says what they are, an upload."""
