// SPDX-License-Identifier: Apache-2.0
// A table whose entries can age; that is no matter to the packets.
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
        support_timeout = true;
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
