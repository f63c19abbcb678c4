// SPDX-License-Identifier: Apache-2.0
// Entries of the program itself, in their order.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    action send(bit<9> port) {
        s.egress_spec = port;
    }

    action drop() {
        mark_to_drop(s);
    }

    table t {
        key = {
            h.data.c : ternary;
        }
        actions = {
            send;
            drop;
        }
        const entries = {
            0x1234 : send(2);
            0x1200 &&& 0xff00 : send(3);
            _ : send(4);
        }
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
