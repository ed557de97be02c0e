"""Depths of the broadcaster's queues, for circuit and model."""

__all__ = ["CHUNK_QUEUE", "LINE_QUEUE"]

CHUNK_QUEUE = 8    # chunks between their mask read and their first beat: covers twelve cycles of latency at two cycles a chunk
LINE_QUEUE = 16    # value lines asked for or waiting for broadcast: two full chunks
