// SPDX-License-Identifier: Apache-2.0
// A select over one field: values, the default, and states in a row.
#include "begin.p4"

struct Meta {
    bit<8> path;
}

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
            1: one;
            2: two;
            default: accept;
        }
    }

    state one {
        m.path = 0x11;
        transition two;
    }

    state two {
        m.path = m.path + 1;
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
        h.note.setValid();
        h.note.note = m.path;
    }
}

#include "end.p4"
