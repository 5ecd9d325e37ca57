"""Find how a handler is called, and what it expects in a request, by reading its file."""

import ast
from collections.abc import Iterator
from typing import Any

import yaml

from serving.model_config import describe_yaml_error
from serving.stock.contents import Contents, Finding
from serving.stock.imports import OWN_FOLDER, Code, handler_file

Function = ast.FunctionDef | ast.AsyncFunctionDef
CLASS_FACTORIES = ("namedtuple", "NamedTuple", "TypedDict", "make_dataclass", "Enum", "IntEnum")
"""Functions that return a class, which TorchServe counts."""
SKIPPED_METHODS = ("initialize", "__init__", "inference", "postprocess", "get_insights")
"""Methods that get no request."""


def check_handler(code: Code) -> Iterator[Finding]:
    """Yield whether the handler can be loaded and called."""
    contents, manifest = code.contents, code.contents.manifest
    tree = code.trees.get(code.handler)
    if handler_file(manifest.handler) in contents.sources:
        reasons = list(_check_structure(code, tree)) if tree else []
        if tree and not reasons:
            yield Finding(
                True, f"handler {manifest.handler}: found in the archive ({manifest.origin})"
            )
        yield from reasons
    elif tree:
        yield Finding(True, f"handler {manifest.handler}: TorchServe's own, included in the image")
    else:
        reason = f"handler {manifest.handler}: neither in the archive nor TorchServe's own"
        yield Finding(False, reason, "build the archive again with --handler FILE.py")
    if manifest.serialized_file and manifest.serialized_file not in contents.names:
        missing = f"{manifest.serialized_file}: named in the manifest but missing in the archive"
        yield Finding(False, missing)
    yield from _check_config_file(contents)
    if manifest.model_file and _loads_model_file(code):
        yield from _check_model_file(code, manifest.model_file)
    if tree:
        yield from _check_requests(code, tree)


def _check_config_file(contents: Contents) -> Iterator[Finding]:
    """Yield why TorchServe cannot read the archive's own model-config."""
    name = contents.manifest.config_file
    if not name:
        return
    if name not in contents.names:
        missing = f"{name}: named in the manifest but missing in the archive"
        yield Finding(False, missing, "build the archive again with --config-file FILE")
        return
    try:
        yaml.safe_load(contents.text(name))
    except yaml.YAMLError as error:
        yield Finding(False, describe_yaml_error(name, error))


def read_config(contents: Contents) -> dict[str, Any]:
    """Return the archive's own model-config; {} if it has none or none that can be read."""
    try:
        document = yaml.safe_load(contents.text(contents.manifest.config_file))
    except yaml.YAMLError:
        return {}
    return document if isinstance(document, dict) else {}


def _check_structure(code: Code, tree: ast.Module) -> Iterator[Finding]:
    """Yield why TorchServe cannot call a handler of the archive."""
    handler = code.contents.manifest.handler
    function = handler.split(":", 1)[1] if ":" in handler else "handle"
    classes = list_class_names(tree)
    functions = {node.name: node for node in _top_level(tree) if isinstance(node, Function)}
    names = functions.keys() | {
        name.id
        for node in _top_level(tree)
        if isinstance(node, ast.Assign)
        for name in node.targets
        if isinstance(name, ast.Name)
    }
    imported = {
        alias.asname or alias.name
        for node in _top_level(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    methods: list[Function] = []
    if function in functions:
        methods = [functions[function]]
    elif function not in names | imported and "*" not in imported:
        if len(classes) != 1:
            found = ", ".join(classes) or "none"
            hint = (
                f"move all classes but the handler to another file, or write a function {function}(data, "
                "context)"
            )
            reason = f"handler {handler}: TorchServe expects one class or a function {function}; "
            yield Finding(False, f"{reason}it has {len(classes)} classes: {found}", hint)
            return
        handler_class = next((n for n in _top_level(tree) if isinstance(n, ast.ClassDef)), None)
        methods = (
            [n for n in handler_class.body if isinstance(n, Function)] if handler_class else []
        )
        if handler_class and not handler_class.bases:
            missing = {"handle", "initialize"} - {node.name for node in methods}
            for name in sorted(missing):
                reason = f"handler {handler}: class {classes[0]} has no method {name}"
                yield Finding(
                    False, reason, "derive it from ts.torch_handler.base_handler.BaseHandler"
                )
    for method in methods:
        if isinstance(method, ast.AsyncFunctionDef) and method.name in (function, "handle"):
            yield Finding(
                False,
                f"{code.handler}:{method.lineno}: {method.name} is async: TorchServe does not await it",
                "write it without async, and run what is async by asyncio.run",
            )


def list_class_names(tree: ast.Module) -> list[str]:
    """Return the names of the classes at the top level of a file, those of namedtuple() too."""
    names: dict[str, None] = {}
    for node in _top_level(tree):
        match node:
            case ast.ClassDef():
                names[node.name] = None
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id=function) | ast.Attribute(attr=function)),
            ) if function in CLASS_FACTORIES:
                names[name] = None
    return list(names)


def _top_level(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, those within `if`, `try` and `with` too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ExceptHandler):
            yield from _top_level(node)
        elif isinstance(node, ast.stmt):
            yield node
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                yield from _top_level(node)


def _loads_model_file(code: Code) -> bool:
    """Whether the model file is loaded by TorchServe's BaseHandler."""
    tree = code.trees.get(code.handler)
    defined = (
        {node.name for node in ast.walk(tree) if isinstance(node, Function)} if tree else set()
    )
    return (
        f"{OWN_FOLDER}/base_handler.py" in code.trees
        and (
            "_load_pickled_model" in defined
            or "initialize" not in defined
            or "super().initialize" in ast.unparse(tree or ast.Module([], []))
        )
        and "_load_pickled_model" not in defined
    )


def _check_model_file(code: Code, name: str) -> Iterator[Finding]:
    if name not in code.contents.sources:
        yield Finding(False, f"{name}: named in the manifest but missing in the archive")
    elif (tree := code.trees.get(name)) and len(classes := list_class_names(tree)) != 1:
        found = ", ".join(classes) or "none"
        hint = "leave one class in it, and move the others to a file given by --extra-files"
        yield Finding(
            False,
            f"model file {name}: TorchServe expects one class; it has {len(classes)}: {found}",
            hint,
        )


def _check_requests(code: Code, tree: ast.Module) -> Iterator[Finding]:
    """Yield what a handler expects in a request that clients do not send in every case."""
    file = code.handler
    functions = [
        n for n in ast.walk(tree) if isinstance(n, Function) and n.name not in SKIPPED_METHODS
    ]
    entries = {"handle", "preprocess", code.contents.manifest.handler.rpartition(":")[2]}
    first = next(filter(None, (_find_first_only(n) for n in functions if n.name in entries)), None)
    if first:
        line, text = first
        yield Finding(
            None,
            f"{file}:{line} reads {text}: only the first instance of a request is answered, as on Google's image",
            "process every element",
        )
    keys: dict[str, str] = {}
    for function in functions:
        for key, line in _read_keys(function):
            keys.setdefault(key, f"{file}:{line}")
    if not keys.keys() & {"instances", "body", "data"} and not any(
        node.name in ("handle", "preprocess") for node in functions
    ):
        keys |= _read_inherited_keys(code)
    if "instances" in keys or ("body" in keys and "data" not in keys):
        key = "instances" if "instances" in keys else "body"
        yield Finding(
            None,
            f'{keys[key]} reads "{key}", as a handler does that is written for no envelope; the JSON '
            "envelope passes the instances themselves",
            "set SERVICE_ENVELOPE=none if it answers the whole body",
        )
    elif "data" in keys:
        yield Finding(
            None,
            f'{keys["data"]} reads "data" of each instance; batch prediction sends each line without it',
            'set WRAP_INSTANCES=data if clients or batch jobs send instances that are no {"data": …}',
        )


def _read_inherited_keys(code: Code) -> dict[str, str]:
    """Return what the handlers of TorchServe that the archive's handler is derived from read."""
    keys: dict[str, str] = {}
    for name, tree in code.trees.items():
        if name.startswith(OWN_FOLDER):
            for node in ast.walk(tree):
                if isinstance(node, Function) and node.name == "preprocess":
                    keys |= {key: f"{name}:{line}" for key, line in _read_keys(node)}
    return keys


def _list_rows(function: Function) -> tuple[set[str], set[str]]:
    """Return the names of the requests and those of a single request in a function."""
    parameters = [a.arg for a in function.args.args if a.arg not in ("self", "context", "ctx")]
    data = set(parameters)
    rows: set[str] = set()
    for _ in range(2):  # a name may be assigned from one that is assigned above
        for node in ast.walk(function):
            target: ast.expr | None = None
            if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
                if {n.id for n in ast.walk(node.iter) if isinstance(n, ast.Name)} & data:
                    target = node.target
            elif isinstance(node, ast.Assign) and _is_row(node.value, data | rows):
                target = node.targets[0]
            if target is not None:
                rows |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
    return data, rows


def _is_row(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is one request, or made from one."""
    match node:
        case ast.Name():
            return node.id in names
        case ast.Subscript() | ast.Attribute():
            return _is_row(node.value, names)
        case ast.BoolOp():
            return _is_row(node.values[0], names)
        case ast.Call():
            is_method = isinstance(node.func, ast.Attribute) and _is_row(node.func, names)
            return is_method or any(_is_row(argument, names) for argument in node.args[:1])
    return False


def _read_keys(function: Function) -> Iterator[tuple[str, int]]:
    """Yield the keys that a function reads from a request, each with its line, unless it tests for them."""
    data, rows = _list_rows(function)
    optional = {
        node.left.value
        for node in ast.walk(function)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Constant)
        and isinstance(node.ops[0], ast.In)
    }
    if any(_is_type_test(node, rows) for node in ast.walk(function)):
        optional |= {"data", "body"}  # it takes bare instances, too
    for node in ast.walk(function):
        match node:
            case ast.Subscript(value=base, slice=ast.Constant(value=str(key)), ctx=ast.Load()):
                pass
            case ast.Call(
                func=ast.Attribute(value=base, attr="get" | "pop"),
                args=[ast.Constant(value=str(key)), *_],
            ):
                pass
            case _:
                continue
        if key not in optional and _is_row(base, data | rows):
            yield key, node.lineno


def _is_type_test(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression is isinstance(ROW, dict)."""
    match node:
        case ast.Call(
            func=ast.Name(id="isinstance"), args=[ast.Name(id=name), ast.Name(id="dict")]
        ):
            return name in names
    return False


def _find_first_only(function: Function) -> tuple[int, str] | None:
    """Return where a function reads the first request only, and the expression; None if it does not."""
    data, _ = _list_rows(function)
    first = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Subscript) and ast.unparse(node) in {f"{name}[0]" for name in data}
    ]
    used = {id(name) for node in first for name in ast.walk(node)}
    for node in ast.walk(function):
        match node:  # what does not read the other requests
            case ast.Compare(left=ast.Name() as name) | ast.UnaryOp(operand=ast.Name() as name):
                used.add(id(name))
            case ast.If(test=ast.Name() as name) | ast.BoolOp(values=[ast.Name() as name, *_]):
                used.add(id(name))
            case ast.Call(func=ast.Attribute(attr="debug" | "info" | "warning")):
                used |= {id(name) for name in ast.walk(node)}
            case ast.Call(func=ast.Name(id="print")):
                used |= {id(name) for name in ast.walk(node)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in data and id(node) not in used:
            return None
    return (first[0].lineno, ast.unparse(first[0])) if first else None
