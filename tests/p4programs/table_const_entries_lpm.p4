// SPDX-License-Identifier: Apache-2.0
// Prefixes among the program's own entries.
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
        const entries = {
            0x0a000000 &&& 0xff000000 : send(2);
            0x0a010000 &&& 0xffff0000 : send(3);
        }
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
