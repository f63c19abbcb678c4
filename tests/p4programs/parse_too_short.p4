// SPDX-License-Identifier: Apache-2.0
// A packet that ends in a header: the error is there, the header is not.
#include "begin.p4"

struct Meta {}

header pair_t {
    bit<8> a;
    bit<16> b;
}

header note_t {
    bit<8> note;
}

struct Headers {
    note_t note;
    pair_t pair;
}

PARSER {
    state start {
        packet.extract(h.note);
        packet.extract(h.pair);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.note);
        packet.emit(h.pair);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        if (s.parser_error == error.PacketTooShort) {
            h.note.note = 0xee;
        }
        if (h.pair.isValid()) {
            h.pair.a = 1;
        }
    }
}

#include "end.p4"
