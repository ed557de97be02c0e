"""Deliberate faults: edits of the generated Verilog, which tests have to notice."""
import re

__all__ = ["within"]


def within(module, pattern, replacement):
    """An edit of one place of one module, or of all modules of that name."""
    def edit(text):
        parts = re.split(r"(?m)^(?=module )", text)
        changed = [re.sub(pattern, replacement, part, count=1, flags=re.M | re.S) if re.match(rf"module \w*{module}\(", part) else part for part in parts]
        return "".join(changed)
    return edit
