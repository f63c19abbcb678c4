// SPDX-License-Identifier: Apache-2.0
//
// What is on the wire, and what the program remembers about one packet.

#ifndef FLOWFERRY_HEADERS
#define FLOWFERRY_HEADERS

#include "constants.p4"

// To the P4Runtime client, in front of the frame exactly as it arrived.
@controller_header("packet_in")
header packet_in_t {
    port_t ingress_port;
    bit<7> reason;
}

// From the P4Runtime client. past_hold = 0: the frame leaves from egress_port as it is.
// past_hold = 1: it runs the pipeline as if it had just arrived, but cannot be held or guarded,
// so that a held packet follows the entries of the moment it is released.
@controller_header("packet_out")
header packet_out_t {
    port_t egress_port;
    bit<1> past_hold;
    bit<6> _pad;
}

header ethernet_t {
    mac_address_t destination;
    mac_address_t source;
    bit<16>       ether_type;
}

// ARP for IPv4 over Ethernet; the fixed fields are checked before any of it is believed.
header arp_t {
    bit<16>        hardware_type;
    bit<16>        protocol_type;
    bit<8>         hardware_length;
    bit<8>         protocol_length;
    bit<16>        operation;
    mac_address_t  sender_mac;
    ipv4_address_t sender;
    mac_address_t  target_mac;
    ipv4_address_t target;
}

header ipv4_t {
    bit<4>         version;
    bit<4>         header_words;
    bit<8>         traffic_class;
    bit<16>        total_length;
    bit<16>        identification;
    bit<1>         reserved;
    bit<1>         dont_fragment;
    bit<1>         more_fragments;
    bit<13>        fragment_offset;
    bit<8>         ttl;
    bit<8>         protocol;
    bit<16>        checksum;
    ipv4_address_t source;
    ipv4_address_t destination;
}

header ipv6_t {
    bit<4>         version;
    bit<8>         traffic_class;
    bit<20>        flow_label;
    bit<16>        payload_length;
    bit<8>         next_header;
    bit<8>         hop_limit;
    ipv6_address_t source;
    ipv6_address_t destination;
}

// The one extension header that is read: behind it are ports to find a service by.
header ipv6_fragment_t {
    bit<8>  next_header;
    bit<8>  reserved;
    bit<13> offset;
    bit<2>  reserved_bits;
    bit<1>  more;
    bit<32> identification;
}

header tcp_t {
    transport_port_t source_port;
    transport_port_t destination_port;
    bit<32>          sequence;
    bit<32>          acknowledgement;
    bit<4>           header_words;
    bit<4>           reserved;
    bit<8>           flags;
    bit<16>          window;
    bit<16>          checksum;
    bit<16>          urgent;
}

header udp_t {
    transport_port_t source_port;
    transport_port_t destination_port;
    bit<16>          length;
    bit<16>          checksum;
}

// What ICMPv6 messages begin with. Its checksum covers the addresses, unlike that of ICMP.
header icmpv6_t {
    bit<8>  type;
    bit<8>  code;
    bit<16> checksum;
}

// A whole neighbour solicitation or advertisement, ICMPv6's part included.
header neighbor_t {
    bit<8>         type;
    bit<8>         code;
    bit<16>        checksum;
    bit<32>        flags;
    ipv6_address_t target;
}

// The option that carries a link's address.
header link_address_t {
    bit<8>        type;
    bit<8>        length;    // in units of 8 bytes
    mac_address_t mac;
}

struct headers_t {
    packet_in_t     packet_in;
    packet_out_t    packet_out;
    ethernet_t      ethernet;
    arp_t           arp;
    ipv4_t          ipv4;
    ipv6_t          ipv6;
    ipv6_fragment_t ipv6_fragment;
    tcp_t           tcp;
    udp_t           udp;
    icmpv6_t        icmpv6;
    neighbor_t      neighbor;
    link_address_t  link_address;
}

// Where the packet goes and comes from once translated. Headers keep what arrived until every
// decision is made, because a held packet must go up untouched.
struct metadata_t {
    ipv4_address_t   source;
    ipv4_address_t   destination;
    ipv6_address_t   source_ipv6;
    ipv6_address_t   destination_ipv6;
    bit<8>           protocol;           // behind a fragment header too
    transport_port_t source_port;        // 0 where the protocol has none
    transport_port_t destination_port;
    bit<16>          tcp_length;         // of the pseudo header: TCP does not carry its own length
    bool             extended;           // by IPv6 options, behind which nothing is read
    bool             fragmented;
    bool             served;             // the virtual address of a service
    bool             direct;             // a backend by its own address
    bool             answer;             // of a backend whose flows are remembered
    bool             remembered;         // a flow that has a cell, or gets one
    bool             known;              // it has one
    bool             recalled;           // the cell says which backend
    bool             kept;               // and that backend may keep it
    bool             sought;             // a new flow, whose client was looked for
    bool             returning;          // and came a short while ago
    bool             outside;            // leaves the cluster
    bit<16>          service_id;
    bit<16>          bucket_count;
    bit<16>          bucket;
    bit<16>          backend_id;
    bit<16>          outside_id;         // service whose address is seen outside of the cluster
    bit<16>          client_time;        // for which a client stays with its backend
    transport_port_t bucket_port;        // the client's, where it counts for the bucket
    ipv4_address_t   client;
    ipv6_address_t   client_ipv6;
    transport_port_t client_port;
    bit<32>          flow;               // hash of the client's end
    bit<64>          cell;               // what is remembered of the flow
    bit<32>          cell_index;
    bit<32>          visitor;            // hash of the client and the service
    bit<32>          visitor_index;
    bit<16>          now;
    bool             past_hold;          // released by the client that held it
    bool             held;
    bool             decided;            // dropped or sent up: nothing may touch it any more
    bool             forwarded;          // time to live, or hop limit, changed
    bool             translated;         // addresses or ports are to change
    bool             rewritten;          // and have changed
    bool             advertised;         // became a neighbour advertisement
}

#endif
