"""The processes around a session: who starts it, who watches it."""
