// SPDX-License-Identifier: Apache-2.0
// Ranges in a select.
#include "begin.p4"

struct Meta {
    bit<8> path;
}

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
        transition select(h.pair.b) {
            1..9: low;
            1000..60000: high;
            default: accept;
        }
    }

    state low {
        m.path = 1;
        transition accept;
    }

    state high {
        m.path = 2;
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
        h.note.setValid();
        h.note.note = m.path;
    }
}

#include "end.p4"
