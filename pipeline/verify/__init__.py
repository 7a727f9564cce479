"""Read a finished set back and say whether everything in it is as the format promises."""
