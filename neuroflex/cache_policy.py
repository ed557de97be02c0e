"""Numbers of FiberCache and MemoryArbiter that circuit, model and users share."""

__all__ = ["CLIENT_QUEUE", "MAX_WRITES", "PRIORITY_MAX", "READ_LATENCY",
           "WRITE_SLACK", "age_bits", "bank_bits", "set_bits", "tag_bits"]

READ_LATENCY = 7        # cycles from the cycle that accepts a read to its response, when it hits undisturbed
CLIENT_QUEUE = 8        # operations a client's queue holds; an operation stays in it until it has taken effect
PRIORITY_MAX = 3        # fetches raise a line's priority up to this, reads lower it down to 0
WRITE_SLACK = 2         # lines that may come to the write buffer after it was seen to be full
MAX_WRITES = 63         # writes that the memory may owe a confirmation for


def bank_bits(config):
    """Bits of a line address that choose the bank: the lowest ones."""
    return config.cache_banks.bit_length() - 1


def set_bits(config):
    """Bits of a line address that choose the set, just above the bank."""
    return config.cache_sets.bit_length() - 1


def tag_bits(config):
    """The remaining bits of a line address."""
    return config.address_bits - bank_bits(config) - set_bits(config)


def age_bits(config):
    """Bits of a line's age: as many allocations as there are ways can be told apart."""
    return max(config.cache_ways.bit_length() - 1, 2)
