"""Boards, builds and drivers."""
