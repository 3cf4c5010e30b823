"""Keys that occur twice in a mapping of YAML, of which a reader silently takes the last."""

from __future__ import annotations

from pathlib import Path

import yaml

from eagle3.errors import UserError


def check_doubled_keys(path: Path) -> None:
    """Raise UserError that names every key which a configuration file has twice.

    A file that is not YAML passes: loading it reports that.
    """
    try:
        top = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    except RecursionError:
        raise UserError(f"config: {path} is nested too deeply") from None
    except yaml.YAMLError:
        return
    faults: list[str] = []
    seen: set[int] = set()  # an alias is the node it names, maybe one that it is inside of
    waiting = [("", top)]
    while waiting:
        above, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(f"{above}{number}.", item) for number, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    faults.append(f"{above}{name} twice, in lines {lines[name]} and {line}")
                lines[name] = line
                waiting.append((f"{above}{name}.", value))
    if faults:
        raise UserError(f"config: {path} has {'; '.join(sorted(faults))}: keep one of them")
