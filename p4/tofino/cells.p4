// SPDX-License-Identifier: Apache-2.0
//
// How a packet reaches what the switch remembers, on Tofino: a part of the control `ingress`. A
// register is reached from one table, whose actions are what may be done with it. These tables are
// the program's own, and clients have no use for them.

@hidden action look() {
    local.cell = look_for_flow.execute(1w0 ++ local.flow[14:0]);
}

@hidden action meet() {
    local.cell = meet_flow.execute(1w0 ++ local.flow[14:0]);
}

@hidden table flow_cell {
    key = { local.answer : exact; }
    actions = { look; meet; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = { true : look(); false : meet(); }
    size = 2;
}

// What begins, and what goes to a backend's own address, is noted anew; so is what finds a cell that
// nobody has, or nobody needs any more.
@hidden action is_own() {
    local.own = true;
}

@hidden action is_noted() {
    local.noted = true;
}

@hidden table cell_owner {
    key = {
        local.cell   : ternary;
        local.begins : ternary;
        local.direct : ternary;
        local.answer : ternary;
    }
    actions = { is_own; is_noted; NoAction; }
    const default_action = NoAction();
    const entries = {
        (0 &&& CELL_OWN, _, _, true)   : NoAction();
        (_, _, _, true)                : is_own();
        (CELL_OTHERS, _, _, _)         : NoAction();
        (0 &&& CELL_OWN, _, _, _)      : is_noted();
        (_, true, _, _)                : is_noted();
        (_, _, true, _)                : is_noted();
        (_, _, _, _)                   : is_own();
    }
    size = 8;
}

@hidden action recall_the_service() {
    local.cell_service = recall_service.execute(1w0 ++ local.flow[14:0]);
}

@hidden action note_the_service() {
    note_service.execute(1w0 ++ local.flow[14:0]);
}

@hidden table flow_service {
    key = { local.own : exact; local.noted : exact; }
    actions = { recall_the_service; note_the_service; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = {
        (true, false) : recall_the_service();
        (false, true) : note_the_service();
    }
    size = 4;
}

@hidden action recall_the_backend() {
    local.cell_backend = recall_backend.execute(1w0 ++ local.flow[14:0]);
}

@hidden action note_the_backend() {
    note_backend.execute(1w0 ++ local.flow[14:0]);
}

@hidden table flow_backend {
    key = { local.own : exact; local.noted : exact; }
    actions = { recall_the_backend; note_the_backend; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = {
        (true, false) : recall_the_backend();
        (false, true) : note_the_backend();
    }
    size = 4;
}

@hidden action scale_visitor_time() {
    local.visitor_time = local.visitor_time << 15;   // to units of 2^16 nanoseconds
}

@hidden action date_visitor() {
    local.visitor_oldest = local.now - local.visitor_time;
}

@hidden action hear() {
    local.visitor_is_old = hear_visitor.execute(1w0 ++ local.visitor[14:0]);
}

@hidden action claim() {
    claim_visitor.execute(1w0 ++ local.visitor[14:0]);
}

@hidden action look_for_visitor() {
    local.visitor_is_own = meet_visitor.execute(1w0 ++ local.visitor[14:0]);
}

@hidden table visitor_cell {
    key = { local.visitor_is_old : exact; }
    actions = { claim; look_for_visitor; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = { 1 : claim(); 0 : look_for_visitor(); }
    size = 2;
}

@hidden action recall_the_visitor() {
    local.cell_backend = recall_visitor.execute(1w0 ++ local.visitor[14:0]);
    local.returning = true;
}

@hidden action note_the_visitor() {
    note_visitor.execute(1w0 ++ local.visitor[14:0]);
}

@hidden table visitor_backend {
    key = { local.visitor_is_old : exact; local.visitor_is_own : exact; }
    actions = { recall_the_visitor; note_the_visitor; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = {
        (0, 1) : recall_the_visitor();
        (1, 0) : note_the_visitor();
    }
    size = 4;
}
