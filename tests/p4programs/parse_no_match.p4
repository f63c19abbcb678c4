// SPDX-License-Identifier: Apache-2.0
// A select in which nothing fits.
#include "begin.p4"

struct Meta {}

header kind_t {
    bit<8> kind;
}

header note_t {
    bit<8> note;
}

struct Headers {
    kind_t kind;
    note_t note;
}

PARSER {
    state start {
        packet.extract(h.kind);
        transition select(h.kind.kind) {
            1: more;
            2: accept;
        }
    }

    state more {
        packet.extract(h.note);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.kind);
        packet.emit(h.note);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        if (s.parser_error == error.NoMatch) {
            h.kind.kind = 0xee;
        }
    }
}

#include "end.p4"
