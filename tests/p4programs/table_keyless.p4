// SPDX-License-Identifier: Apache-2.0
// A table without a key takes its default action.
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
        actions = {
            send;
            drop;
        }
        default_action = send(4);
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
