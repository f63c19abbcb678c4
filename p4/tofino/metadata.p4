// SPDX-License-Identifier: Apache-2.0
//
// What the program remembers about one packet on Tofino: the decisions of p4/program, and what its
// checksum engine takes out of a packet in the parser.

#ifndef FLOWFERRY_TOFINO_METADATA
#define FLOWFERRY_TOFINO_METADATA

// The port of the switch's own processor. CPU_PORT, 510, is that of software switches.
const port_t TOFINO_CPU_PORT = 0;

// What a flow's cell has said: bit N is set where N has bit 0 if the cell is the flow's own, bit 1 if
// it was never anybody's, and bit 2 if its owner was silent for long. These are sets of such bits.
const bit<16> CELL_OWN    = 0xaaaa;
const bit<16> CELL_OTHERS = 0x0001;   // and needed

// A cell of a register: whose it is, and when that last spoke.
struct owner_t {
    bit<32> flow;
    bit<32> time;
}

struct local_t {
    ipv4_address_t   source;
    ipv4_address_t   destination;
    ipv6_address_t   source_ipv6;
    ipv6_address_t   destination_ipv6;
    bit<8>           protocol;
    transport_port_t source_port;
    transport_port_t destination_port;
    bit<16>          payload_sum;        // of all that a checksum covers and the program keeps
    bool             checked;            // there is a UDP checksum
    bool             extended;
    bool             fragmented;
    bool             served;
    bool             direct;
    bool             answer;
    bool             remembered;
    bool             begins;             // a first packet of TCP
    bool             own;                // its cell is the flow's
    bool             noted;              // from now on
    bool             recalled;
    bool             kept;
    bool             returning;
    bool             outside;
    bit<16>          service_id;
    bit<16>          outside_id;
    bit<16>          bucket_count;
    bit<16>          bucket;
    bit<16>          backend_id;
    bit<16>          cell_service;
    bit<16>          cell_backend;
    bit<16>          client_time;
    transport_port_t bucket_port;
    ipv4_address_t   client;
    ipv6_address_t   client_ipv6;
    transport_port_t client_port;
    bit<32>          flow;
    bit<16>          cell;
    bit<32>          visitor;
    bit<1>           visitor_is_old;
    bit<1>           visitor_is_own;
    bit<32>          visitor_time;
    bit<32>          visitor_oldest;     // who has come before that is forgotten
    bit<32>          now;
    bit<32>          difference;
    bit<128>         difference_ipv6;
    bool             is_same;
    bool             no_source;
    bool             from_out_of_scope;
    bool             to_out_of_scope;
    bool             proceeds;           // it is to be forwarded, as far as itself tells
    bool             guarded;
    bool             held_to;
    bool             held_from;
    bool             expired;
    bool             refused;
    bit<8>           drop_reason;
    bool             counted;
    bool             past_hold;
    bool             held;
    bool             decided;
    bool             forwarded;
    bool             translated;
    bool             rewritten;
    bool             advertised;
}

#endif
