// SPDX-License-Identifier: Apache-2.0
// One header of eight bytes, for programs that test something else than the parser.
header data_t {
    bit<8> a;
    bit<8> b;
    bit<16> c;
    bit<32> d;
}

struct Headers {
    data_t data;
}

PARSER {
    state start {
        packet.extract(h.data);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.data);
    }
}
