// SPDX-License-Identifier: Apache-2.0
// The longest prefix wins; a prefix of no length matches everything.
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
            h.data.d : lpm;
        }
        actions = {
            send;
            drop;
        }
        size = 16;
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
