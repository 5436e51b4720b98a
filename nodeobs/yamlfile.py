"""YAML that people write: duplicate and unknown keys are refused, with a guess at what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Iterable
from typing import Any

import yaml

from nodeobs.errors import ConfigurationError


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error and not silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str, *, source: str) -> Any:
    """Contents of a YAML document; ``source`` is the file's name for messages. Empty: ``None``.

    Raises:
        ConfigurationError: not YAML, or a key given twice; says the line.
    """
    try:
        # A subclass of the safe loader: it makes plain dicts, lists, strings and numbers only.
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source}: not usable YAML: {error}") from error


def unknown_key(key: object, known: Collection[str]) -> str:
    """Text that refuses ``key``, with the known key it resembles, or all of them."""
    guess = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
    hint = f"did you mean {guess[0]!r}?" if guess else f"known are {listed(known)}"
    return f"unknown key {key!r}; {hint}"


def listed(words: Iterable[str]) -> str:
    """The words for a sentence, in their order: ``a, b, c``."""
    return ", ".join(words)
