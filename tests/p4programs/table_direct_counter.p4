// SPDX-License-Identifier: Apache-2.0
// An entry counts the packets that hit it.
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

    direct_counter(CounterType.packets_and_bytes) hits;

    table t {
        key = {
            h.data.a : exact;
        }
        actions = {
            send;
            drop;
        }
        counters = hits;
        default_action = drop();
    }

    apply {
        t.apply();
    }
}

#include "end.p4"
