// SPDX-License-Identifier: Apache-2.0
//
// What the switch remembers of flows and clients, on Tofino: a part of the control `ingress`, as
// p4/program/flows.p4.
//
// A register is reached once by a packet, so a flow has one cell, and what stands in it are several
// registers: whose it is and when that last spoke, the service, the backend. A cell is claimed by a
// flow's first packet when it is this flow's already, or when its owner was silent for a while;
// otherwise the flow is not remembered, and goes by its bucket.

Register<owner_t, bit<16>>(65536) flow_owners;
Register<bit<16>, bit<16>>(65536) flow_services;
Register<bit<16>, bit<16>>(65536) flow_backends;
Register<owner_t, bit<16>>(32768) visitor_owners;
Register<bit<16>, bit<16>>(32768) visitor_backends;

// In units of 2^21 nanoseconds, 2.1 milliseconds: two minutes.
const bit<32> TOFINO_IDLE = 57220;

@hidden action read_clock() {
    local.now = (bit<32>) from_parser.global_tstamp[47:21];
}

Hash<bit<32>>(HashAlgorithm_t.CRC32) flow_hash;
Hash<bit<32>>(HashAlgorithm_t.CRC32) flow_hash_ipv6;
Hash<bit<32>>(HashAlgorithm_t.CRC32) visitor_hash;
Hash<bit<32>>(HashAlgorithm_t.CRC32) visitor_hash_ipv6;

// Answers, and packets of a flow that has begun.
RegisterAction<owner_t, bit<16>, bit<8>>(flow_owners) meet_flow = {
    void apply(inout owner_t cell, out bit<8> found) {
        found = CELL_TAKEN;
        if (cell.flow == local.flow) {
            cell.time = local.now;
            found = CELL_OWN;
        } else if (local.now - cell.time > TOFINO_IDLE) {
            cell.flow = local.flow;
            cell.time = local.now;
            found = CELL_CLAIMED;
        }
    }
};

// A connection that begins, and a flow to a backend's own address.
RegisterAction<owner_t, bit<16>, bit<8>>(flow_owners) begin_flow = {
    void apply(inout owner_t cell, out bit<8> found) {
        found = CELL_TAKEN;
        if (cell.flow == local.flow || local.now - cell.time > TOFINO_IDLE) {
            cell.flow = local.flow;
            cell.time = local.now;
            found = CELL_CLAIMED;
        }
    }
};

RegisterAction<owner_t, bit<16>, bit<8>>(flow_owners) look_for_flow = {
    void apply(inout owner_t cell, out bit<8> found) {
        found = CELL_TAKEN;
        if (cell.flow == local.flow) {
            cell.time = local.now;
            found = CELL_OWN;
        }
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_services) recall_service = {
    void apply(inout bit<16> cell, out bit<16> found) {
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_services) note_service = {
    void apply(inout bit<16> cell, out bit<16> found) {
        cell = local.service_id;
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_backends) recall_backend = {
    void apply(inout bit<16> cell, out bit<16> found) {
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(flow_backends) note_backend = {
    void apply(inout bit<16> cell, out bit<16> found) {
        cell = local.backend_id;
        found = cell;
    }
};

RegisterAction<owner_t, bit<16>, bit<8>>(visitor_owners) meet_visitor = {
    void apply(inout owner_t cell, out bit<8> found) {
        found = CELL_TAKEN;
        if (cell.flow == local.visitor && local.now - cell.time <= local.visitor_time) {
            cell.time = local.now;
            found = CELL_OWN;
        } else if (local.now - cell.time > local.visitor_time) {
            cell.flow = local.visitor;
            cell.time = local.now;
            found = CELL_CLAIMED;
        }
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(visitor_backends) recall_visitor = {
    void apply(inout bit<16> cell, out bit<16> found) {
        found = cell;
    }
};

RegisterAction<bit<16>, bit<16>, bit<16>>(visitor_backends) note_visitor = {
    void apply(inout bit<16> cell, out bit<16> found) {
        cell = local.backend_id;
        found = cell;
    }
};

@hidden action client_is_source() {
    local.client = hdr.ipv4.source;
    local.client_port = local.source_port;
}

@hidden action client_is_source_ipv6() {
    local.client_ipv6 = hdr.ipv6.source;
    local.client_port = local.source_port;
}

@hidden action client_is_destination() {
    local.client = hdr.ipv4.destination;
    local.client_port = local.destination_port;
}

@hidden action client_is_destination_ipv6() {
    local.client_ipv6 = hdr.ipv6.destination;
    local.client_port = local.destination_port;
}

@hidden action client_is_itself() {
    local.client = hdr.ipv4.source;
    local.client_port = local.destination_port;
    local.destination = hdr.ipv4.source;
    local.translated = true;
}

@hidden action client_is_itself_ipv6() {
    local.client_ipv6 = hdr.ipv6.source;
    local.client_port = local.destination_port;
    local.destination_ipv6 = hdr.ipv6.source;
    local.translated = true;
}

@hidden action hash_flow() {
    local.flow = flow_hash.get({ local.client, local.protocol, local.client_port });
}

@hidden action hash_flow_ipv6() {
    local.flow = flow_hash_ipv6.get({ local.client_ipv6, local.protocol, local.client_port });
}

@hidden action hash_visitor() {
    local.visitor = visitor_hash.get({ local.client, local.service_id });
}

@hidden action hash_visitor_ipv6() {
    local.visitor = visitor_hash_ipv6.get({ local.client_ipv6, local.service_id });
}
