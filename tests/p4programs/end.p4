// SPDX-License-Identifier: Apache-2.0
// The parts that a program did not define, and the switch.
#ifndef HAS_EGRESS
EGRESS { apply {} }
#endif
#ifndef HAS_VERIFY
VERIFY { apply {} }
#endif
#ifndef HAS_UPDATE
UPDATE { apply {} }
#endif

V1Switch(parse(), verify_sums(), ingress(), egress(), update_sums(), deparse()) main;
