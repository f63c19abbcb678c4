// SPDX-License-Identifier: Apache-2.0
// Elements move back; the last fall off, the new ones are set.
#include "begin.p4"

struct Meta {}

header tag_t {
    bit<4> last;
    bit<12> value;
}

header note_t {
    bit<8> note;
}

struct Headers {
    note_t note;
    tag_t[3] tags;
}

PARSER {
    state start {
        packet.extract(h.tags.next);
        transition select(h.tags.last.last) {
            0: start;
            default: accept;
        }
    }
}

DEPARSER {
    apply {
        packet.emit(h.note);
        packet.emit(h.tags);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.tags.push_front(1);
        h.tags[0].setValid();
        h.tags[0].last = 0;
        h.tags[0].value = 0xfff;
    }
}

#include "end.p4"
