// SPDX-License-Identifier: Apache-2.0
//
// Numbers that have a meaning outside the program: on the wire, or to a P4Runtime client.

#ifndef FLOWFERRY_CONSTANTS
#define FLOWFERRY_CONSTANTS

typedef bit<48> mac_address_t;
typedef bit<32> ipv4_address_t;
typedef bit<128> ipv6_address_t;
typedef bit<9>  port_t;
typedef bit<16> transport_port_t;

// The switch hands packets to the P4Runtime client, and takes packets from it, at this port.
const port_t CPU_PORT = 510;

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<16> ETHERTYPE_ARP  = 0x0806;
const bit<16> ETHERTYPE_IPV6 = 0x86DD;

const bit<8> PROTOCOL_TCP    = 6;
const bit<8> PROTOCOL_UDP    = 17;
const bit<8> PROTOCOL_ICMPV6 = 58;

// IPv6 extension headers, where a protocol could stand.
const bit<8> EXTENSION_HOP_BY_HOP  = 0;
const bit<8> EXTENSION_ROUTING     = 43;
const bit<8> EXTENSION_FRAGMENT    = 44;
const bit<8> EXTENSION_DESTINATION = 60;

const bit<16> ARP_HARDWARE_ETHERNET = 1;
const bit<16> ARP_REQUEST = 1;
const bit<16> ARP_REPLY   = 2;

const bit<10> LINK_LOCAL = 0x3FA;   // fe80::/10
const bit<8>  MULTICAST  = 0xFF;    // ff00::/8

const bit<8> NEIGHBOR_SOLICITATION  = 135;
const bit<8> NEIGHBOR_ADVERTISEMENT = 136;
const bit<8> OPTION_SOURCE_LINK     = 1;
const bit<8> OPTION_TARGET_LINK     = 2;
const bit<32> ADVERTISEMENT_FLAGS   = 0xE0000000;   // router, solicited, override

// What the switch remembers. The cells of flows are sets of four, those of clients sets of two: of
// the flows that fall into one set, the one that was silent for longest makes room. One cell is one
// register of 64 bits, because a register is read and written as a whole, and nothing else is.
const bit<32> FLOW_CELLS   = 262144;
const bit<32> CLIENT_CELLS = 65536;

// Time is counted in units of 2^21 microseconds, 2.1 seconds; 16 bits of it last for 38 hours.
// What is no TCP has no end that could be seen: after two minutes of silence it is a new flow.
const bit<16> DATAGRAM_IDLE = 60;

// Where a pod that reaches itself through a service seems to be: it does not take packets from its
// own address. The IPv4 dummy address (RFC 7600) and one of the discard prefix (RFC 6666) are
// nobody's, and no router sends them on.
const ipv4_address_t HAIRPIN      = 0xC0000008;                            // 192.0.0.8
const ipv6_address_t HAIRPIN_IPV6 = 0x01000000000000000000000000000008;    // 100::8

// packet_in.reason: which of the two hold tables sent the packet up.
const bit<7> HELD_TO   = 1;   // on its way to the endpoint
const bit<7> HELD_FROM = 2;   // on its way from the endpoint

// Indexes of the counter `dropped`: every packet this program drops is counted under one of them.
const bit<8> DROP_ETHERTYPE  = 0;    // neither IPv4, IPv6 nor ARP
const bit<8> DROP_MALFORMED  = 1;    // shorter than its own headers say, or not the version it says
const bit<8> DROP_OPTIONS    = 2;    // IPv4 options; IPv6 ones where the packet would be translated
const bit<8> DROP_FRAGMENT   = 3;    // a fragment that would have to be translated
const bit<8> DROP_NO_BACKEND = 4;    // a service without buckets, a bucket or backend that is not there
const bit<8> DROP_TTL        = 5;    // the last hop it was allowed
const bit<8> DROP_NO_ROUTE   = 6;    // no entry in the route table, or one that says drop
const bit<8> DROP_GUARD      = 7;    // from a source that must not be heard any more
const bit<8> DROP_HELD       = 8;    // held without a buffer (action drop of the hold tables)
const bit<8> DROP_ARP        = 9;    // ARP that nobody here answers
const bit<8> DROP_NDP        = 10;   // neighbour solicitation that nobody here answers
const bit<8> DROP_SCOPE      = 11;   // IPv6 that belongs on one link: link-local, multicast
const bit<32> DROP_REASONS   = 16;   // size of the counter: room for more

#endif
