// SPDX-License-Identifier: Apache-2.0
// A set of values that the control plane fills.
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
    value_set<bit<16>>(4) kinds;

    state start {
        packet.extract(h.pair);
        transition select(h.pair.b) {
            kinds: known;
            default: accept;
        }
    }

    state known {
        m.path = 1;
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
