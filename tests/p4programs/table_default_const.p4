// SPDX-License-Identifier: Apache-2.0
// A default action with an argument that nobody can change.
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
            h.data.a : exact;
        }
        actions = {
            send;
            drop;
        }
        const default_action = send(5);
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
