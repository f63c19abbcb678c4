# SPDX-License-Identifier: Apache-2.0
"""P4Data: values of the types that P4Info describes, from and to the plain numbers they hold."""

from __future__ import annotations

from collections.abc import Iterator

from finsy.proto import p4d, p4t

from ..rpc_errors import invalid, unimplemented
from ..schema import canonical, parse_bytes


def to_data(spec: p4t.P4DataTypeSpec, numbers: Iterator[int], types: p4t.P4TypeInfo) -> p4d.P4Data:
    """A value of a type, from its numbers in their order."""
    result = p4d.P4Data()
    match spec.WhichOneof("type_spec"):
        case "bitstring":
            result.bitstring = canonical(next(numbers))
        case "bool":
            result.bool = bool(next(numbers))
        case "tuple":
            for member in spec.tuple.members:
                result.tuple.members.append(to_data(member, numbers, types))
        case "struct":
            for field in types.structs[spec.struct.name].members:
                result.struct.members.append(to_data(field.type_spec, numbers, types))
        case "header":
            result.header.is_valid = True
            for _ in types.headers[spec.header.name].members:
                result.header.bitstrings.append(canonical(next(numbers)))
        case "serializable_enum":
            result.enum_value = canonical(next(numbers))
        case "new_type":
            return to_data(types.new_types[spec.new_type.name].original_type, numbers, types)
        case other:
            raise unimplemented(f"values of type {other} are not supported")
    return result


def from_data(data: p4d.P4Data, width: int, what: str) -> int:
    """The number in a message that holds a single one."""
    match data.WhichOneof("data"):
        case "bitstring":
            return parse_bytes(data.bitstring, width, what)
        case "bool":
            return int(data.bool)
        case "enum_value":
            return parse_bytes(data.enum_value, width, what)
    raise invalid(f"{what} holds numbers")
