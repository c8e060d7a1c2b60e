// SPDX-License-Identifier: MIT OR Apache-2.0

//! The programs that are on the hooks while maps are replaced.

use limiter_common::abi::{counter, switch};
use limiter_tests::{
    GUARDED,
    program::{Extras, Hook, OWN_MARK, Programs, Shape, Talk, Verdict, no_limits},
};

use crate::support::{boot_ns, get, limited, ok};

/// The hooks. Each entry contains the direction (to the server or not), whether the device has
/// Ethernet headers, and the index of the program.
const HOOKS: [(bool, bool, u32); 4] = [
    (true, true, switch::INGRESS),
    (false, true, switch::EGRESS),
    (true, false, switch::INGRESS_L3),
    (false, false, switch::EGRESS_L3),
];

/// Installs the programs of the old set. The new set stays empty.
fn install_old_set(programs: &mut Programs) {
    for (to_server, ethernet, number) in HOOKS {
        let program = Hook::of(to_server, ethernet).program();
        programs.object_mut().set_tail_call(number, program);
    }
}

fn set_switch(programs: &mut Programs, word: u64) {
    let set = programs.object_mut().maps.switch.set(0, word, 0);
    set.expect("the switch");
}

fn switch_word(programs: &Programs) -> u64 {
    let word = programs.object().maps.switch.get(&0, 0);
    word.expect("the switch")
}

/// Runs the holding program for a direction on a packet of a connection, once on a device with
/// Ethernet headers and once on one without, and returns the verdicts.
fn verdicts(programs: &mut Programs, to_server: bool) -> [Verdict; 2] {
    [(Shape::v4(), 40_001), (Shape::v4().bare(), 40_002)].map(|(shape, port)| {
        let hook = Hook::of(to_server, shape.ethernet).holding();
        let mut talk = Talk::new(shape);
        talk.ends.client_port = port;
        let mut talk = talk.opened(programs);
        let segment = if to_server {
            talk.client(get("/").as_bytes())
        } else {
            talk.asks(programs, get("/"));
            talk.server(ok("").as_bytes())
        };
        let packet = talk.shape.wrap(&talk.ends, to_server, &segment);
        programs.run(hook, &packet).verdict
    })
}

#[test]
fn packets_run_the_program_set_in_force() {
    for to_server in [true, false] {
        let mut programs = limited(no_limits());
        install_old_set(&mut programs);
        let in_flight = |programs: &Programs| programs.state(crate::support::SCOPE).in_flight;
        assert_eq!(verdicts(&mut programs, to_server), [Verdict::Pass; 2]);
        // The number of requests in flight shows that the programs of the old set ran.
        assert_eq!(in_flight(&programs), if to_server { 2 } else { 0 });
        // The new set is in force, but has no programs, so no packet of a guarded port passes.
        set_switch(&mut programs, switch::NEW);
        assert_eq!(verdicts(&mut programs, to_server), [Verdict::Drop; 2]);
        assert_eq!(switch_word(&programs), switch::NEW);
        for (to_server, ethernet, number) in HOOKS {
            let program = Hook::of(to_server, ethernet).program();
            let number = switch::PROGRAMS + number;
            programs.object_mut().set_tail_call(number, program);
        }
        assert_eq!(verdicts(&mut programs, to_server), [Verdict::Pass; 2]);
    }
}

#[test]
fn held_packets_are_counted_and_other_packets_pass() {
    for to_server in [true, false] {
        let mut programs = limited(no_limits());
        install_old_set(&mut programs);
        let until = boot_ns() + 60_000_000_000;
        set_switch(&mut programs, until);
        let before = programs.counter(counter::INSPECTED_BYTES);
        assert_eq!(verdicts(&mut programs, to_server), [Verdict::Drop; 2]);
        assert_eq!(programs.counter(counter::CONTENDED_DROPPED), 2);
        let (dropped, inspected) = (
            programs.counter(counter::DROPPED_BYTES),
            programs.counter(counter::INSPECTED_BYTES) - before,
        );
        let bytes = 2 * get("/").len() as u64;
        // If `to_server` is false, only the responses were held, after their requests had passed
        // and had been inspected.
        let wanted = if to_server { (bytes, 0) } else { (0, bytes) };
        assert_eq!((dropped, inspected), wanted);
        assert_eq!(switch_word(&programs), until);
        // The packets that the programs themselves send are not held, and neither are packets of
        // ports that are not guarded.
        let hook = Hook::of(to_server, true).holding();
        let mut talk = Talk::new(Shape::v4());
        let segment = talk.client(b"x");
        let packet = talk.shape.wrap(&talk.ends, to_server, &segment);
        let own = Extras {
            mark: OWN_MARK,
            ..Extras::default()
        };
        assert_eq!(programs.run_with(hook, &packet, own).verdict, Verdict::Pass);
        programs.guard(&[GUARDED + 1]);
        assert_eq!(programs.run(hook, &packet).verdict, Verdict::Pass);
    }
}

#[test]
fn expired_hold_returns_to_the_old_set() {
    for to_server in [true, false] {
        let mut programs = limited(no_limits());
        install_old_set(&mut programs);
        set_switch(&mut programs, boot_ns());
        assert_eq!(verdicts(&mut programs, to_server), [Verdict::Pass; 2]);
        assert_eq!(switch_word(&programs), switch::OLD);
        assert_eq!(programs.counter(counter::CONTENDED_DROPPED), 0);
    }
}
