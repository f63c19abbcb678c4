# SPDX-License-Identifier: Apache-2.0
"""BMv2 JSON, read into the model.

What has no type there is refused while reading, by name and with its line in the P4 source, so that
later stages need no "unknown" branch.
The format is described in docs/JSON_format.md of behavioral-model, versions 2.18 to 2.24.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any, TypeAlias

from .errors import BadProgram, Refused, Source
from .model import (
    BINARY,
    MAX_WIDTH,
    UNARY,
    Action,
    ActionParameter,
    ActionProfile,
    Advance,
    Argument,
    Assign,
    Bool,
    Calculation,
    CalculationRef,
    Checksum,
    Conditional,
    Const,
    ConstEntry,
    Counter,
    CounterRef,
    DefaultEntry,
    Expr,
    Extract,
    ExtractNext,
    Field,
    FieldList,
    FieldRef,
    Header,
    HeaderRef,
    KeyField,
    LastField,
    LastIndex,
    Lookahead,
    Meter,
    MeterRef,
    Op,
    Param,
    Parser,
    ParserOp,
    ParseState,
    Pipeline,
    Primitive,
    Program,
    Reference,
    Register,
    RegisterRef,
    SelectPart,
    Stack,
    StackRef,
    Table,
    Text,
    Transition,
    Valid,
    Values,
    ValueSet,
    Verify,
)

Json: TypeAlias = Mapping[str, Any]

REFUSED_SECTIONS = {
    "header_union_types": "header union",
    "header_union_stacks": "header union stack",
    "extern_instances": "extern instance",
}
"""Sections of the JSON that this target has nothing for, and what a P4 programmer calls them."""


def load(text: str | bytes) -> Program:
    """Read a program; raise BadProgram or Refused."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadProgram(f"the device configuration is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadProgram("the device configuration is not a BMv2 JSON object")
    try:
        return _Reader(document).program()
    except (KeyError, TypeError, IndexError) as error:
        raise BadProgram(f"the BMv2 JSON lacks or garbles {error!r}") from error


def _source(node: Json) -> Source | None:
    info = node.get("source_info")
    if not info:
        return None
    return Source(info["filename"], info["line"], info.get("source_fragment", ""))


def _use(node: Any, names: Set[str], near: Source | None) -> Source | None:
    """The source of the first node that has one of the names in it."""
    if isinstance(node, Mapping):
        near = _source(node) or near
        inner = [value for key, value in node.items() if key != "source_info"]
    elif isinstance(node, list):
        inner = node
    else:
        return near if isinstance(node, str) and node in names else None
    return next((found for value in inner if (found := _use(value, names, near))), None)


def _int(text: str) -> int:
    return int(text, 16)


class _Reader:
    """Turns the JSON tree into the model, top down."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.headers: dict[str, Header] = {}

    def program(self) -> Program:
        version = self.document.get("__meta__", {}).get("version", [0, 0])
        if version[0] != 2:
            raise BadProgram(
                f"BMv2 JSON version {version[0]}.{version[1]} is unknown; version 2 is expected "
                "(compile with p4c --target bmv2 --arch v1model)"
            )
        self._refuse_whole_sections()
        self.headers = self._headers()
        pipelines = {p["name"]: self._pipeline(p) for p in self.document["pipelines"]}
        if set(pipelines) != {"ingress", "egress"}:
            raise Refused(
                f"the pipelines {', '.join(sorted(pipelines))}",
                hint="the v1model architecture with ingress and egress is expected",
            )
        return Program(
            name=str(self.document.get("program", "")),
            headers=self.headers,
            parser=self._parser(),
            actions={a["id"]: self._action(a) for a in self.document["actions"]},
            ingress=pipelines["ingress"],
            egress=pipelines["egress"],
            deparser=self._deparser(),
            calculations={c["name"]: self._calculation(c) for c in self.document["calculations"]},
            checksums=tuple(self._checksum(c) for c in self.document["checksums"]),
            counters={c["name"]: self._counter(c) for c in self.document["counter_arrays"]},
            stacks={s["name"]: self._stack(s) for s in self._section("header_stacks")},
            value_sets={v["name"]: self._value_set(v) for v in self._section("parse_vsets")},
            meters={m["name"]: self._meter(m) for m in self._section("meter_arrays")},
            registers={r["name"]: self._register(r) for r in self._section("register_arrays")},
            digests={d["id"]: self._field_list(d) for d in self._section("learn_lists")},
            field_lists={d["id"]: self._field_list(d) for d in self._section("field_lists")},
            errors={name: number for name, number, *_ in self.document.get("errors", [])},
        )

    def _section(self, name: str) -> list[Json]:
        return list(self.document.get(name, []))

    def _refuse_whole_sections(self) -> None:
        for section, what in REFUSED_SECTIONS.items():
            for node in self.document.get(section, []):
                source = _source(node) or self._first_use(node)
                raise Refused(f"{what} {node.get('name', '')}".rstrip(), source)

    def _first_use(self, union_type: Json) -> Source | None:
        """Where a union, or a header of one, is first used: p4c tells no line of its type."""
        unions = [
            u
            for u in self._section("header_unions")
            if u.get("union_type") == union_type.get("name")
        ]
        members = {number for u in unions for number in u["header_ids"]}
        names = {u["name"] for u in unions}
        names |= {h["name"] for h in self.document["headers"] if h["id"] in members}
        for section in ("pipelines", "actions", "deparsers"):
            source = _use(self.document[section], names, None)
            if source:
                return source
        return None

    # headers
    def _headers(self) -> dict[str, Header]:
        types = {t["name"]: t for t in self.document["header_types"]}
        result = {}
        for node in self.document["headers"]:
            metadata = bool(node["metadata"])
            header = Header(node["name"], self._fields(types[node["header_type"]]), metadata)
            if not metadata and header.bits % 8:
                raise BadProgram(f"header {header.name} is {header.bits} bits, not whole bytes")
            result[header.name] = header
        return result

    def _fields(self, header_type: Json) -> tuple[Field, ...]:
        fields = []
        offset = 0
        for name, width, *rest in header_type["fields"]:
            label = f"{header_type['name']}.{name}"
            if width == "*":
                raise Refused(f"varbit field {label}", _source(header_type))
            if width > MAX_WIDTH:
                raise Refused(
                    f"field {label} of {width} bits",
                    _source(header_type),
                    f"fields may have up to {MAX_WIDTH} bits",
                )
            fields.append(Field(name, width, offset, bool(rest and rest[0])))
            offset += width
        return tuple(fields)

    # expressions
    def expression(self, node: Json | None, source: Source | None) -> Expr:
        value = self.argument(node, source)
        if isinstance(value, Reference):
            raise Refused(f"a {type(value).__name__} where a value is expected", source)
        return value

    def argument(self, node: Json | None, source: Source | None) -> Argument:
        if node is None:
            raise BadProgram(f"{source or 'the program'}: an operand is missing")
        kind, value = node.get("type"), node.get("value")
        if kind is None and "op" in node:  # the inner object of an expression
            return self._operation(node, source)
        match kind:
            case "hexstr":
                return Const(_int(str(value)), node.get("bitwidth"))
            case "bool":
                return Bool(bool(value))
            case "field":
                return self._field(value)
            case "local" | "runtime_data":
                return Param(int(value))  # type: ignore[arg-type]
            case "lookahead":
                return self._lookahead(value, source)
            case "expression":
                if isinstance(value, Mapping) and "op" in value:
                    return self._operation(value, source)
                return self.argument(value, source)
            case "header":
                return HeaderRef(str(value))
            case "counter_array":
                return CounterRef(str(value))
            case "calculation":
                return CalculationRef(str(value))
            case "string":
                return Text(str(value))
            case "parameters_vector":
                return Values(tuple(self.expression(v, source) for v in value or ()))
            case "stack_field":
                return LastField(*value)  # type: ignore[misc]
            case "header_stack":
                return StackRef(str(value))
            case "meter_array":
                return MeterRef(str(value))
            case "register_array":
                return RegisterRef(str(value))
        raise Refused(f"a value of type {kind} ({value})", source)

    def _field(self, value: Any) -> FieldRef | Valid:
        header, name = value
        if name == "$valid$":
            return Valid(header)
        return FieldRef(header, name)

    def _lookahead(self, value: Any, source: Source | None) -> Lookahead:
        offset, width = value
        if width > MAX_WIDTH:
            raise Refused(f"a lookahead of {width} bits", source)
        return Lookahead(offset, width)

    def _operation(self, node: Json, source: Source | None) -> Expr:
        op = node["op"]
        if op == "valid":
            return Valid(str(node["right"]["value"]))
        if op == "last_stack_index":
            return LastIndex(str(node["right"]["value"]))
        if op == "?":
            branches = (node["cond"], node["left"], node["right"])
            return Op("?", tuple(self.expression(b, source) for b in branches))
        if node.get("left") is None and op in UNARY:
            return Op(op, (self.expression(node["right"], source),))
        if op in BINARY:
            left = self.expression(node["left"], source)
            return Op(op, (left, self.expression(node["right"], source)))
        raise Refused(f"the operation {op}", source)

    # parser
    def _parser(self) -> Parser:
        (node,) = self.document["parsers"]
        states = {s["name"]: self._state(s) for s in node["parse_states"]}
        return Parser(node["init_state"], states)

    def _state(self, node: Json) -> ParseState:
        key = tuple(self._key_part(k, node["name"]) for k in node["transition_key"])
        widths = [self._width(part) for part in key]
        return ParseState(
            name=node["name"],
            ops=tuple(self._parser_op(op, node["name"]) for op in node["parser_ops"]),
            key=key,
            transitions=tuple(
                self._transition(t, widths, node["name"]) for t in node["transitions"]
            ),
        )

    def _key_part(self, node: Json, state: str) -> SelectPart:
        value = self.argument(node, None)
        if isinstance(value, SelectPart):
            return value
        raise Refused(f"a transition on {node.get('type')} in parser state {state}")

    def _width(self, part: SelectPart) -> int:
        if isinstance(part, Lookahead):
            return part.width
        if isinstance(part, LastField):
            first = self._stack_of(part.stack).headers[0]
            return self.headers[first].field(part.field).width
        if isinstance(part, Valid):
            return 1
        return self.headers[part.header].field(part.field).width

    def _parser_op(self, node: Json, state: str) -> ParserOp:
        source = _source(node)
        op, parameters = node["op"], node["parameters"]
        match op:
            case "extract":
                if parameters[0]["type"] == "stack":
                    return ExtractNext(self._stack_of(parameters[0]["value"]).name)
                if parameters[0]["type"] != "regular":
                    raise Refused(f"extract of {parameters[0]['type']} in state {state}", source)
                return Extract(parameters[0]["value"])
            case "set":
                target = self.argument(parameters[0], source)
                if not isinstance(target, FieldRef):
                    raise Refused(f"assignment to {parameters[0]['type']}", source)
                return Assign(target, self.expression(parameters[1], source))
            case "verify":
                return Verify(*(self.expression(p, source) for p in parameters))
            case "advance":
                return Advance(self.expression(parameters[0], source))
            case "shift":
                return Advance(Const(8 * int(parameters[0])))
            case "primitive":
                return self._primitive(parameters[0], source)
        raise Refused(f"the parser operation {op} in state {state}", source)

    def _transition(self, node: Json, widths: list[int], state: str) -> Transition:
        kind = node.get("type") or ("default" if node["value"] == "default" else "hexstr")
        if kind == "default":
            return Transition(None, None, node["next_state"])
        if kind == "parse_vset":
            return Transition(None, None, node["next_state"], str(node["value"]))
        if kind != "hexstr":
            raise Refused(f"a transition on {kind} in parser state {state}")
        values = _split(_int(node["value"]), widths)
        masks = _split(_int(node["mask"]), widths) if node.get("mask") else None
        return Transition(values, masks, node["next_state"])

    # actions
    def _action(self, node: Json) -> Action:
        parameters = []
        for parameter in node["runtime_data"]:
            if parameter["bitwidth"] > MAX_WIDTH:
                raise Refused(
                    f"parameter {parameter['name']} of action {node['name']} with "
                    f"{parameter['bitwidth']} bits",
                    _source(node),
                )
            parameters.append(ActionParameter(parameter["name"], parameter["bitwidth"]))
        primitives = tuple(self._primitive(p, None) for p in node["primitives"])
        return Action(node["id"], node["name"], tuple(parameters), primitives, _source(node))

    def _primitive(self, node: Json, source: Source | None) -> Primitive:
        source = _source(node) or source
        arguments = tuple(self.argument(p, source) for p in node["parameters"])
        return Primitive(node["op"], arguments, source)

    # match-action
    def _pipeline(self, node: Json) -> Pipeline:
        for call in node.get("action_calls", []):
            raise Refused(f"action call {call['name']}", _source(call))
        return Pipeline(
            name=node["name"],
            first=node["init_table"],
            tables={t["name"]: self._table(t) for t in node["tables"]},
            conditionals={c["name"]: self._conditional(c) for c in node["conditionals"]},
            profiles={p["name"]: self._profile(p) for p in node.get("action_profiles", [])},
        )

    def _profile(self, node: Json) -> ActionProfile:
        source = _source(node)
        selector = node.get("selector") or {}
        inputs = [self.argument(i, source) for i in selector.get("input", [])]
        fields = tuple(i for i in inputs if isinstance(i, (FieldRef, Valid)))
        if len(fields) != len(inputs):
            raise Refused(f"a computed input of selector {node['name']}", source)
        return ActionProfile(
            node["name"], int(node["max_size"]), selector.get("algo"), fields, source
        )

    def _table(self, node: Json) -> Table:
        source = _source(node)
        name = node["name"]
        if node["type"] not in ("simple", "indirect", "indirect_ws"):
            raise Refused(f"table {name} of type {node['type']}", source)
        following: dict[str, str | None] = dict(node["next_tables"])
        by_hit = "__HIT__" in following or "__MISS__" in following
        return Table(
            name=name,
            match=node["match_type"],
            key=tuple(self._key_field(k, source) for k in node["key"]),
            size=node["max_size"],
            counted=bool(node["with_counters"]),
            actions=dict(zip(node["actions"], node["action_ids"], strict=True)),
            next_by_action={} if by_hit else following,
            hit_next=following.get("__HIT__", node.get("base_default_next")),
            miss_next=following.get("__MISS__", node.get("base_default_next")),
            by_hit=by_hit,
            default=self._default(node.get("default_entry")),
            default_next=node.get("base_default_next"),
            entries=tuple(self._entry(e, source) for e in node.get("entries", [])),
            profile=node.get("action_profile"),
            timed=bool(node.get("support_timeout")),
            meter=node.get("direct_meters"),
            source=source,
        )

    def _key_field(self, node: Json, source: Source | None) -> KeyField:
        match = node["match_type"]
        if match == "valid":
            target: FieldRef | Valid = Valid(str(node["target"]))
            match = "exact"
        elif match in ("exact", "lpm", "ternary", "range", "optional"):
            target = self._field(node["target"])
        else:
            raise Refused(f"match kind {match}", source)
        name = node.get("name") or ".".join(node["target"])
        mask = _int(node["mask"]) if node.get("mask") else None
        return KeyField(name, match, target, self._width(target), mask)

    def _default(self, node: Json | None) -> DefaultEntry | None:
        if node is None:
            return None
        data = tuple(_int(d) for d in node.get("action_data", []))
        return DefaultEntry(node["action_id"], data, bool(node.get("action_entry_const")))

    def _entry(self, node: Json, source: Source | None) -> ConstEntry:
        match: list[tuple[int, int | None]] = []
        for part in node["match_key"]:
            match part["match_type"]:
                case "exact":
                    match.append((_int(part["key"]), None))
                case "valid":
                    match.append((int(part["key"]), None))
                case "lpm":
                    match.append((_int(part["key"]), int(part["prefix_length"])))
                case "ternary" | "optional":
                    match.append((_int(part["key"]), _int(part["mask"])))
                case "range":
                    match.append((_int(part["start"]), _int(part["end"])))
                case other:
                    raise Refused(f"a constant entry matching {other}", source)
        entry = node["action_entry"]
        data = tuple(_int(d) for d in entry["action_data"])
        return ConstEntry(tuple(match), int(node.get("priority", 0)), entry["action_id"], data)

    def _conditional(self, node: Json) -> Conditional:
        source = _source(node)
        condition = self.expression(node["expression"], source)
        return Conditional(node["name"], condition, node["true_next"], node["false_next"], source)

    # checksums, counters, deparser
    def _calculation(self, node: Json) -> Calculation:
        source = _source(node)
        inputs: list[Const | FieldRef] = []
        with_payload = False
        for part in node["input"]:
            if with_payload:
                raise Refused(f"{part['type']} after the payload in {node['name']}", source)
            if part["type"] == "payload":
                with_payload = True
            elif part["type"] == "header":
                header = self.headers[part["value"]]
                inputs += [FieldRef(header.name, f.name) for f in header.fields]
            else:
                value = self.argument(part, source)
                if not isinstance(value, (Const, FieldRef)):
                    raise Refused(f"{part['type']} as input of {node['name']}", source)
                inputs.append(value)
        return Calculation(node["name"], node["algo"], tuple(inputs), with_payload, source)

    def _checksum(self, node: Json) -> Checksum:
        source = _source(node)
        if node["type"] != "generic":
            raise Refused(f"checksum type {node['type']}", source)
        condition = node.get("if_cond")
        header, name = node["target"]
        return Checksum(
            target=FieldRef(header, name),
            calculation=node["calculation"],
            condition=self.expression(condition, source) if condition else None,
            update=bool(node.get("update", True)),
            verify=bool(node.get("verify", True)),
            source=source,
        )

    def _counter(self, node: Json) -> Counter:
        table = node.get("binding") if node.get("is_direct") else None
        return Counter(node["name"], int(node.get("size") or 0), table)

    def _meter(self, node: Json) -> Meter:
        source = _source(node)
        if node.get("rate_count", 2) != 2:
            raise Refused(f"meter {node['name']} with {node['rate_count']} rates", source)
        target = self._field(node["result_target"]) if node.get("is_direct") else None
        if isinstance(target, Valid):
            raise BadProgram(f"meter {node['name']} writes to the validity of a header")
        table = node.get("binding") if node.get("is_direct") else None
        return Meter(node["name"], int(node["size"]), node["type"], table, target, source)

    def _register(self, node: Json) -> Register:
        source = _source(node)
        if node["bitwidth"] > MAX_WIDTH:
            raise Refused(f"register {node['name']} of {node['bitwidth']} bits", source)
        return Register(node["name"], int(node["size"]), int(node["bitwidth"]), source)

    def _field_list(self, node: Json) -> FieldList:
        values = [self.argument(e, _source(node)) for e in node["elements"]]
        plain = tuple(v for v in values if isinstance(v, (Const, FieldRef, Valid)))
        if len(plain) != len(values):
            raise Refused(f"a computed value in the list of fields {node['name']}", _source(node))
        return FieldList(int(node["id"]), node["name"], plain)

    # header stacks, value sets
    def _stack(self, node: Json) -> Stack:
        names = {h["id"]: h["name"] for h in self.document["headers"]}
        return Stack(node["name"], tuple(names[i] for i in node["header_ids"]))

    def _stack_of(self, name: str) -> Stack:
        for node in self._section("header_stacks"):
            if node["name"] == name:
                return self._stack(node)
        raise BadProgram(f"the program names header stack {name} but does not declare it")

    def _value_set(self, node: Json) -> ValueSet:
        return ValueSet(node["name"], int(node.get("max_size") or 64), _source(node))

    def _deparser(self) -> tuple[str, ...]:
        (node,) = self.document["deparsers"]
        for primitive in node.get("primitives", []):
            raise Refused(f"{primitive['op']} in the deparser", _source(primitive))
        return tuple(node["order"])


def _split(value: int, widths: list[int]) -> tuple[int, ...]:
    """Cut a transition value into its parts; each was padded to whole bytes."""
    parts = []
    for width in reversed(widths):
        size = 8 * ((width + 7) // 8)
        parts.append(value & ((1 << size) - 1))
        value >>= size
    return tuple(reversed(parts))
