"""Whole decodes beside peers and what the machine allows; their memory."""
