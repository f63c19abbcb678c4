// SPDX-License-Identifier: Apache-2.0
// A key of 128 bits: exact, as prefix, ternary and as range.
#include "begin.p4"

struct Meta {}

header data_t {
    bit<128> address;
    bit<8> way;
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

INGRESS {
    action send(bit<9> port) {
        s.egress_spec = port;
    }

    action drop() {
        mark_to_drop(s);
    }

    table by_exact {
        key = {
            h.data.address : exact;
        }
        actions = {
            send;
            drop;
        }
        default_action = drop();
    }

    table by_prefix {
        key = {
            h.data.address : lpm;
        }
        actions = {
            send;
            drop;
        }
        default_action = drop();
    }

    table by_mask {
        key = {
            h.data.address : ternary;
        }
        actions = {
            send;
            drop;
        }
        default_action = drop();
    }

    apply {
        if (h.data.way == 0) {
            by_exact.apply();
        } else if (h.data.way == 1) {
            by_prefix.apply();
        } else {
            by_mask.apply();
        }
    }
}

#include "end.p4"
