// SPDX-License-Identifier: Apache-2.0
// A verification that fails ends the parser with an error of the program.
#include "begin.p4"

struct Meta {}

error { BadKind }

header pair_t {
    bit<8> a;
    bit<16> b;
}

header note_t {
    bit<8> note;
}

struct Headers {
    pair_t pair;
    note_t note;
}

PARSER {
    state start {
        packet.extract(h.pair);
        verify(h.pair.a != 7, error.BadKind);
        packet.extract(h.note);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.pair);
        packet.emit(h.note);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        if (s.parser_error == error.BadKind) {
            h.pair.b = 0xbad0;
        } else if (h.note.isValid()) {
            h.note.note = 1;
        }
    }
}

#include "end.p4"
