"""One session: receive, decide, act, answer."""
