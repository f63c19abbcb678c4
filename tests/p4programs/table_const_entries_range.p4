// SPDX-License-Identifier: Apache-2.0
// Ranges among the program's own entries.
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
            h.data.c : range;
        }
        actions = {
            send;
            drop;
        }
        const entries = {
            1..15 : send(2);
            16 : send(3);
        }
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
