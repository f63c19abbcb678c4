// SPDX-License-Identifier: Apache-2.0
// Messages to the log.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        log_msg("a packet");
        log_msg("a = {}, d = {}", { h.data.a, h.data.d });
    }
}

#include "end.p4"
