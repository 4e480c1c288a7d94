"""Parts as outside packages would write them: each file is one, and works around nothing."""
