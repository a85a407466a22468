"""Pretrained language models, and what is done with them on other tasks."""
