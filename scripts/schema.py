"""Write configs/schema.json, with which editors complete, explain and check configs: python -m scripts.schema."""

import json
import re
from abc import ABCMeta
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from jsonargparse.typing import register_type

import src
from src.config.checks import OWN_KEY
from src.config.parser import make_parser

DESCRIBED = ("src.", "torch.optim.", "lightning.pytorch.")  # classes from elsewhere may have any arguments
CALLED = {"init", "penalties"}  # Callable[..., Any], which may be classes, but jsonargparse describes them as texts
HIDDEN = {"$schema", "dict_kwargs", "params", "num_outputs"}  # the code, not the YAML, passes the last two


def main(file: Path = Path("configs/schema.json")) -> None:
    for module in walk_packages(src.__path__, "src."):
        import_module(module.name)
    register_type(ABCMeta)  # jsonargparse fails on arguments that are a metaclass
    parser = make_parser()
    for command in OWN_KEY:
        parser.add_class_arguments(import_module(f"src.commands.{command}").Plan, command)
    complete = json.loads(parser.get_completion_script("jsonschema"))
    complete["$defs"]["NetFactory"] = {"not": {}}  # the other form of ``net`` describes the same classes
    schema = relax({key: value for key, value in complete.items() if key != "$defs"})
    schema |= {"$schema": complete["$schema"], "$defs": {}}
    while missing := set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema))) - set(schema["$defs"]):
        schema["$defs"] |= {name: relax(complete["$defs"][name]) for name in missing}
    file.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def relax(node: Any) -> Any:
    """Return a node of the schema for layered files: no key is required, and each list ``key`` has a ``key+`` too."""
    if isinstance(node, list):
        return [relax(item) for item in node]
    if not isinstance(node, dict):
        return node
    forms = node.get("anyOf", [])
    if any("class_path" in form.get("properties", {}) for form in forms):
        return any_class([relax(form) for form in forms if "properties" in form])
    node = {key: relax(value) for key, value in node.items() if not (key == "required" and isinstance(value, list))}
    if "properties" in node:
        keys = {key: value for key, value in node["properties"].items() if key not in HIDDEN}
        lists = [key for key, value in keys.items() if any("items" in form for form in value.get("anyOf", [value]))]
        keys |= {key: {} for key in CALLED & keys.keys()}
        node["properties"] = keys | {f"{key}+": keys[key] for key in lists}
    return node


def any_class(forms: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of an object of a class: one of the described classes, or any class from elsewhere."""
    known = {form["properties"]["class_path"].get("const", ""): form for form in forms}
    known = {path: form for path, form in known.items() if path.startswith(DESCRIBED)}
    for form in known.values():
        form["properties"]["class_path"]["description"] = form.get("description", "")
    packages = [re.escape(package) for package in DESCRIBED if any(path.startswith(package) for path in known)]
    path = {"type": "string", "pattern": rf"^(?!{'|'.join(packages)}).*\." if packages else r"\."}
    other: dict[str, Any] = {"type": "object", "required": ["class_path"], "additionalProperties": False}
    other["properties"] = {"class_path": path, "init_args": {"type": "object"}}
    return {"anyOf": [*known.values(), other, *([{"enum": [*known]}] if known else []), path]}


if __name__ == "__main__":
    main()
